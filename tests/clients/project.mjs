// What every script needs: the address that a Supabase project has, tokens, and clients.

import { createHmac } from 'node:crypto'
import http from 'node:http'
import { createClient } from '@supabase/supabase-js'

const env = process.env
export const schema = env.PROJECT_SCHEMA

// Two people who never meet.
export const ann = '11111111-1111-4111-8111-111111111111'
export const ben = '22222222-2222-4222-8222-222222222222'

/// A token as Supabase's auth server signs it.
export function token(role, sub) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const now = Math.floor(Date.now() / 1000)
  const claims = { role, iss: 'supabase', iat: now, exp: now + 3600, ...(sub && { sub, aud: 'authenticated' }) }
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`
  return `${text}.${createHmac('sha256', env.PROJECT_JWT_SECRET).update(text).digest('base64url')}`
}

/// What stands before the REST server: a rewrite of paths and nothing else. /rest/v1 is Supabase's,
/// /v1/chat/completions is OpenAI's.
export function gateway(rewrite = (path) => path.replace(/^\/rest\/v1/, '')) {
  const server = http.createServer((request, response) => {
    const { method, headers } = request
    const onward = http.request(
      { socketPath: env.PROJECT_REST_SOCKET, path: rewrite(request.url), method, headers },
      (answer) => {
        response.writeHead(answer.statusCode, answer.headers)
        answer.pipe(response)
      },
    )
    onward.on('error', (error) => response.destroy(error))
    response.on('close', () => onward.destroy())
    request.pipe(onward)
  })
  return new Promise((listening) => {
    server.listen(0, '127.0.0.1', () => {
      // Open connections do not keep the script alive.
      server.unref()
      listening(`http://127.0.0.1:${server.address().port}`)
    })
  })
}

const url = await gateway()

/// A client as a page makes it, with the key of anybody and, signed in, the token of somebody.
export function client(role, sub) {
  return createClient(url, token('anon'), {
    db: { schema },
    ...(role !== 'anon' && { accessToken: async () => token(role, sub) }),
  })
}

/// Plain HTTP, for what the client hides.
export function plain(path, role, sub, headers = {}) {
  return fetch(`${url}/rest/v1${path}`, {
    headers: { authorization: `Bearer ${token(role, sub)}`, 'accept-profile': schema, ...headers },
  })
}

/// The data of an answer that must be no error.
export async function got(answer) {
  const { data, error, status } = await answer
  if (error) throw new Error(`HTTP ${status}: ${JSON.stringify(error)}`)
  return data
}

/// The SQLSTATE of an answer that must be an error.
export async function code(answer) {
  const { error, status } = await answer
  if (!error) throw new Error(`HTTP ${status}, and no error`)
  return error.code
}

export const hello = [{ role: 'user', content: 'hi' }]
