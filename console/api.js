// The routes of the console, and the one credential that opens them. The token is kept here and in this tab's
// sessionStorage, and sent to where this page came from and nowhere else.

const KEPT = 'aggregator.token'
/** A browser may keep nothing of what is in a frame of another site. */
export const store = (() => {
  try { return sessionStorage } catch { return null }
})()
let token = store?.getItem(KEPT) ?? null
let onSignedOut = () => {}

export class ApiError extends Error {
  constructor(status, error) {
    super(error.message || `The gateway answered with status ${status}.`)
    this.status = status
    this.hint = error.hint ?? null
    this.code = error.code ?? null
    // /v1 has none: a SQLSTATE of ours is PT and the status.
    this.sqlstate = error.sqlstate ?? (status >= 400 ? `PT${status}` : null)
  }

  get name() {
    return [this.sqlstate, this.code].filter(Boolean).join(' · ')
  }
}

export const isSignedIn = () => token !== null
export const credential = () => token
export const whenSignedOut = (then) => { onSignedOut = then }

export function keep(given) {
  token = given
  if (given === null) store?.removeItem(KEPT)
  else store?.setItem(KEPT, given)
}

async function failure(response) {
  let error = {}
  try {
    error = (await response.json()).error ?? {}
  } catch { /* Not of ours: the status says it. */ }
  const wait = Number(response.headers.get('retry-after'))
  if (wait > 0 && !error.hint) error.hint = `Try again in ${wait} s.`
  return new ApiError(response.status, error)
}

/** A request with the token; one that does not hold any more ends the session. */
export async function send(path, { method = 'GET', body, signal, headers } = {}) {
  let response
  try {
    response = await fetch(new URL(path, document.baseURI), {
      method,
      signal,
      body: body === undefined ? undefined : JSON.stringify(body),
      headers: {
        ...(token === null ? {} : { authorization: `Bearer ${token}` }),
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...headers,
      },
      credentials: 'omit',
      cache: 'no-store',
      redirect: 'error',
    })
  } catch (error) {
    if (error.name === 'AbortError') throw error
    throw new ApiError(0, { message: 'The gateway cannot be reached.', hint: 'Check the network, and whether the server is up.' })
  }
  if (response.ok) return response
  const error = await failure(response)
  if (response.status === 401 && token !== null) {
    keep(null)
    onSignedOut(error)
  }
  throw error
}

export function query(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => ![null, undefined, ''].includes(value))
  return given.length ? `?${new URLSearchParams(given)}` : ''
}

export async function get(name, parameters = {}, options = {}) {
  return (await send(`api/${name}${query(parameters)}`, options)).json()
}

export async function post(name, body = {}, options = {}) {
  return (await send(`api/${name}`, { method: 'POST', body, ...options })).json()
}

export async function exchange(code) {
  keep(null)
  const { token: made } = await post('session', { code })
  keep(made)
}

export async function signOut() {
  try {
    await send('api/session', { method: 'DELETE' })
  } catch { /* What is no session has none to end. */ }
  keep(null)
}

let known = null
export function models() {
  known ??= get('models').catch((error) => {
    known = null
    throw error
  })
  return known
}
export const forgetModels = () => { known = null }

export const providerNames = () => get('providers').then(({ providers }) => providers.map((one) => [one.name, one.display_name]))
