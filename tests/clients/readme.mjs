// The examples in JavaScript of docs/guides/supabase.md, as they stand there.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import test from 'node:test'
import { createClient } from '@supabase/supabase-js'
import OpenAI from 'openai'
import { ann, gateway, schema, token } from './project.mjs'

const url = await gateway()
const rewritten = await gateway((path) => path.replace(/^\/v1\/chat\/completions$/, '/rpc/chat_completions'))
const page = await readFile(new URL('../../docs/guides/supabase.md', import.meta.url), 'utf8')
const examples = [...page.matchAll(/^```js\n(.*?)^```$/gms)].map(([, code]) => code)
const AsyncFunction = (async () => {}).constructor

// The clients give errors as values, which the examples leave aside: the answers are watched instead.
const answers = []
const watched = async (...request) => {
  const answer = await fetch(...request)
  answers.push(answer.ok ? answer.status : `${answer.status} ${await answer.clone().text()}`)
  return answer
}
const supabase = createClient(url, token('anon'), {
  db: { schema },
  accessToken: async () => token('authenticated', ann),
  global: { fetch: watched },
})
class OpenAIHere extends OpenAI {
  constructor(options) {
    super({ ...options, apiKey: token('authenticated', ann), baseURL: `${rewritten}/v1`, fetch: watched, maxRetries: 0 })
  }
}

for (const [i, code] of examples.entries()) {
  test(`example ${i + 1}: ${code.split('\n')[0]}`, async () => {
    // The first key's models arrive a moment after it is saved.
    for (let tries = 0; i > 0 && tries < 1200; tries++) {
      const { data: models } = await supabase.rpc('get_user_available_models')
      if (models?.length > 0) break
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
    answers.length = 0
    // Imports are done above.
    const body = code.replace(/^import .*$/gm, '')
    try {
      await new AsyncFunction('supabase', 'key', 'session', 'OpenAI', 'console', body)(
        supabase, 'sk-good-ann-0123456789', { access_token: token('authenticated', ann) }, OpenAIHere, { log() {} },
      )
    } catch (error) {
      throw new Error(`after the answers ${answers}`, { cause: error })
    }
    assert.ok(answers.length > 0)
    assert.deepEqual(answers.filter((answer) => typeof answer !== 'number'), [])
  })
}
