// The frame around the pages: who is signed in, where one is, and the way from one page to another.
import { h, icon, show } from './dom.js'
import * as api from './api.js'
import { button, closeAll, problem, tell } from './ui.js'
import { announce, listen, owner, signIn, takeToken } from './signin.js'
import { welcome } from './welcome.js'
import { providers } from './providers.js'
import { models } from './models.js'
import { playground } from './playground.js'
import { usage } from './usage.js'
import { requests } from './requests.js'
import { jobs } from './jobs.js'
import { keys } from './keys.js'
import { limits } from './limits.js'
import { ago } from './format.js'

const PAGES = {
  providers: { title: 'Providers', sign: 'plug', draw: providers },
  models: { title: 'Models', sign: 'stack', draw: models },
  playground: { title: 'Playground', sign: 'chat', draw: playground },
  usage: { title: 'Usage', sign: 'chart', draw: usage },
  requests: { title: 'Requests', sign: 'list', draw: requests },
  jobs: { title: 'Jobs', sign: 'clock', draw: jobs },
  keys: { title: 'Keys', sign: 'key', draw: keys },
  limits: { title: 'Limits', sign: 'gauge', draw: limits },
}

const app = document.getElementById('app')
let me = null
let leave = null
let current = null

function place() {
  const [path, query = ''] = location.hash.replace(/^#\/?/, '').split('?')
  return { name: path, query: new URLSearchParams(query) }
}

function credential() {
  const given = new URLSearchParams(location.hash.replace(/^#/, ''))
  const found = { code: given.get('code'), accessToken: given.get('access_token') }
  if (!found.code && !found.accessToken) return null
  history.replaceState(null, '', location.pathname)
  return found
}

async function start() {
  const given = credential()
  if (given?.code) {
    try {
      await api.exchange(given.code)
    } catch (error) {
      return signedOut(error)
    }
  } else if (given?.accessToken) {
    return alone(takeToken(given.accessToken, enter, () => signedOut()))
  }
  return api.isSignedIn() ? enter() : signedOut()
}

async function enter() {
  alone(h('div.alone', { 'aria-busy': 'true' }, h('p.soft', {}, 'Signing in…')))
  try {
    me = await api.get('me')
  } catch (error) {
    if (!api.isSignedIn()) return signedOut(error)
    return alone(h('div.alone', {}, h('h1', {}, 'The console cannot start'), problem(error, enter),
      button('Sign out', async () => { await api.signOut(); signedOut(null) })))
  }
  owner.told = owner.out = false
  frame()
  return go()
}

function signedOut(error) {
  me = null
  leave?.()
  leave = null
  closeAll()
  document.title = 'Sign in · aggregator'
  alone(signIn(error, enter))
  if (error === null) owner.out = true
  else announce()
}

function alone(content) {
  show(app, h('main', { id: 'main', class: 'bare-main', tabindex: '-1' }, content))
}

function frame() {
  const links = Object.entries(PAGES).map(([name, page]) =>
    h('a', { href: `#/${name}`, 'data-page': name }, icon(page.sign), h('span', {}, page.title)))
  const menu = h('button.bare.menu', { type: 'button', 'aria-expanded': 'false', 'aria-controls': 'nav', 'aria-label': 'Menu' }, icon('menu'))
  const side = h('header.side', {},
    h('div.brand', {}, h('a', { href: '#/' }, h('img', { src: 'icon.svg', alt: '', width: '26', height: '26' }), h('span', {}, 'aggregator')), menu),
    h('div.fold', { id: 'nav' },
      h('nav', { 'aria-label': 'Pages' }, links),
      h('div.who', {},
        h('p', {}, h('b', { title: me.user_id }, me.user_id), h('span', {}, me.is_admin ? 'Administrator' : me.kind === 'gateway_key' ? 'Gateway key, reading only' : 'User')),
        h('button.bare', { type: 'button', 'aria-label': 'Sign out', title: me.expires_at ? `Sign out (the session ends ${ago(me.expires_at).textContent})` : 'Sign out', onclick: async () => {
          await api.signOut()
          signedOut(null)
        } }, icon('out')))))
  const fold = (isOpen) => {
    side.classList.toggle('open', isOpen)
    menu.setAttribute('aria-expanded', String(isOpen))
  }
  menu.addEventListener('click', () => fold(!side.classList.contains('open')))
  side.addEventListener('click', (event) => { if (event.target.closest('a')) fold(false) })
  side.addEventListener('keydown', (event) => {
    if (event.key === 'Escape' && side.classList.contains('open')) {
      fold(false)
      menu.focus()
    }
  })
  show(app, h('div.frame', {}, side, h('main', { id: 'main', tabindex: '-1' })))
}

function go() {
  if (!me) return
  const at = place()
  const isNew = !me.setup.has_usage
  const name = Object.hasOwn(PAGES, at.name) ? at.name : isNew ? 'welcome' : 'usage'
  const title = PAGES[name]?.title ?? 'Welcome'
  document.title = `${title} · aggregator`
  for (const link of document.querySelectorAll('.side nav a')) {
    if (link.dataset.page === name) link.setAttribute('aria-current', 'page')
    else link.removeAttribute('aria-current')
  }
  const main = document.getElementById('main')
  const isSame = main.dataset.page === name
  main.dataset.page = name
  leave?.()
  closeAll()
  const page = { me, query: at.query, canWrite: me.can_write !== false, to, refresh, change: (...where) => { if (current === page) change(...where) } }
  current = page
  const draw = PAGES[name]?.draw ?? welcome
  const scroll = isSame ? scrollY : 0
  const focused = isSame ? document.activeElement?.id : ''
  const content = draw(page)
  leave = content.leave ?? null
  show(main, me.kind === 'gateway_key' && h('p.banner', {}, 'You are signed in with a gateway key: everything can be seen, nothing changed. ',
    'SELECT console_url() prints a link that can do more.'), content)
  scrollTo(0, scroll)
  // On a page of its own, its heading is read; on the same one, the focus stays where it was.
  if (!isSame && go.last) main.querySelector('h1')?.focus()
  else if (focused) document.getElementById(focused)?.focus()
  go.last = name
}

function to(name, query = {}) {
  const next = `#/${name}${api.query(query)}`
  if (next === location.hash) go()
  else location.hash = next
}

function change(name, query) {
  history.replaceState(null, '', `#/${name}${api.query(query)}`)
}

async function refresh() {
  api.forgetModels()
  try {
    me = await api.get('me')
  } catch { /* The next page says what is wrong. */ }
}

api.whenSignedOut((error) => signedOut(error))
listen(enter)
addEventListener('hashchange', () => {
  // The link that skips to the content is no page.
  if (location.hash === '#main') {
    history.replaceState(null, '', location.pathname + (go.last && go.last !== 'welcome' ? `#/${go.last}` : ''))
    document.getElementById('main')?.focus()
  } else if (/^#(code|access_token)=/.test(location.hash)) start()
  else go()
})
addEventListener('unhandledrejection', (event) => {
  if (event.reason instanceof api.ApiError) tell(event.reason.message, 'bad')
})
start()
