// Signing in: by a link, a gateway key, or an access token.
import { h, icon, show } from './dom.js'
import * as api from './api.js'
import { busy, button, copyButton, field, input, problem } from './ui.js'
import { time } from './format.js'

const brand = () => h('p.brand', {}, h('img', { src: 'icon.svg', alt: '', width: '32', height: '32' }), h('span', {}, 'aggregator'))

export function trimmed(text) {
  return text.replace(/^[\s"'`]+|[\s"'`,;]+$/g, '').replace(/^(authorization:\s*)?bearer\s+/i, '')
}

export function secret(props = {}) {
  const text = input({ type: 'password', autocomplete: 'off', autocapitalize: 'off', 'data-1p-ignore': true, 'data-lpignore': 'true', ...props })
  const eye = h('button.bare', { type: 'button', 'aria-label': 'Show', 'aria-pressed': 'false', title: 'Show' }, icon('eye'))
  eye.addEventListener('click', () => {
    const isShown = text.type === 'text'
    text.type = isShown ? 'password' : 'text'
    eye.setAttribute('aria-pressed', String(!isShown))
    eye.setAttribute('title', isShown ? 'Show' : 'Hide')
    show(eye, icon(isShown ? 'eye' : 'eyeOff'))
  })
  text.addEventListener('paste', (event) => {
    const pasted = event.clipboardData?.getData('text')
    if (!pasted) return
    event.preventDefault()
    text.setRangeText(trimmed(pasted), text.selectionStart, text.selectionEnd, 'end')
    text.dispatchEvent(new Event('input', { bubbles: true }))
  })
  return h('div.secret', {}, text, eye)
}

export function signIn(error, enter) {
  const holder = secret({ autofocus: true, name: 'credential' })
  const text = holder.querySelector('input')
  const wrong = h('div', { 'aria-live': 'polite' }, error && problem(error))
  const go = button('Sign in', null, { type: 'submit', kind: 'main full' })
  const sql = 'SELECT console_url();'
  return h('div.alone', {},
    brand(),
    h('h1', {}, 'Sign in'),
    h('p', {}, 'The link that this statement prints signs you in, as the user and role that run it:'),
    h('div.code', {}, h('code', {}, sql), copyButton(sql, 'the statement')),
    h('form', { novalidate: true, onsubmit: (event) => {
      event.preventDefault()
      const given = trimmed(text.value)
      if (!given) {
        show(wrong, problem({ message: 'Paste a gateway key or an access token first.' }))
        text.focus()
        return
      }
      busy(go, async () => {
        api.keep(given)
        text.value = ''
        await enter()
      })
    } },
    field('Or paste a gateway key or an access token', holder, { hint: 'It stays in this tab, and goes to this server alone. A gateway key can look, and change nothing.' }),
    wrong, go))
}

function claims(token) {
  try {
    const part = token.split('.')[1].replaceAll('-', '+').replaceAll('_', '/')
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(part), (c) => c.charCodeAt(0))))
  } catch {
    return {}
  }
}

const listed = document.querySelector('meta[name=origins]').content.split(' ').filter(Boolean)
const other = globalThis.opener ?? (parent === globalThis ? null : parent)

/** Whether it was told since somebody was in, and whether they have signed out. */
export const owner = { told: false, out: false }

/** Tells the page that has this one in a frame, or has opened it, if its origin is listed. */
export function announce() {
  if (owner.told) return
  owner.told = true
  for (const origin of other ? listed : []) other.postMessage({ aggregator: 'ready' }, origin)
}

/** Takes a token from it, and later ones of the same user. */
export function listen(enter) {
  addEventListener('message', ({ source, origin, data }) => {
    const token = data?.access_token
    if (source !== other || !listed.includes(origin) || !/^[\w-]+(\.[\w-]+){2}$/.test(typeof token === 'string' ? token : '')) return
    const before = api.credential()
    if (before === null ? owner.out : !(claims(before).sub && claims(before).sub === claims(token).sub)) return
    api.keep(token)
    if (before === null) enter()
  })
}

/** A token that came in the address: a stranger's link must not sign anybody in unasked. */
export function takeToken(token, enter, refuse) {
  const said = claims(token)
  const go = button('Sign in', () => busy(go, async () => {
    api.keep(token)
    await enter()
  }), { kind: 'main', autofocus: true })
  return h('div.alone', {},
    brand(),
    h('h1', {}, 'Sign in with this link?'),
    h('p', {}, 'It holds an access token. Go on only if it comes from your own application, and the user is you.'),
    h('dl', {},
      h('dt', {}, 'User'), h('dd', {}, String(said.sub ?? 'not named')),
      h('dt', {}, 'Role'), h('dd', {}, String(said.role ?? 'not named')),
      h('dt', {}, 'Ends'), h('dd', {}, said.exp ? time(said.exp * 1000) : 'not said')),
    h('div.row', {}, button('No', refuse), go))
}
