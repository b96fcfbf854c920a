// Building the document. Everything goes in as text or as an attribute, never as markup: the page's policy
// (require-trusted-types-for 'script') holds us to it.

const SVG = 'http://www.w3.org/2000/svg'
const DRAWN = new Set(['svg', 'g', 'path', 'rect', 'line', 'circle', 'text', 'title'])

/** An element. `tag` may name classes ("p.note"); props with `on` are listeners. */
export function h(tag, props, ...children) {
  const [name, ...classes] = tag.split('.')
  const drawn = DRAWN.has(name)
  const element = drawn ? document.createElementNS(SVG, name) : document.createElement(name)
  if (classes.length) element.setAttribute('class', classes.join(' '))
  let value
  for (const [key, given] of Object.entries(props ?? {})) {
    if (given === null || given === undefined || given === false) continue
    if (key.startsWith('on')) element.addEventListener(key.slice(2), given)
    else if (key === 'value') value = given
    else if (key === 'class') element.classList.add(...given.split(' ').filter(Boolean))
    else if (key === 'vars') for (const [k, v] of Object.entries(given)) element.style.setProperty(k, v)
    else element.setAttribute(key, given === true ? '' : given)
  }
  add(element, children)
  if (value !== undefined) {
    if ('value' in element && !['BUTTON', 'OPTION', 'DATA', 'METER', 'PROGRESS'].includes(element.tagName)) element.value = value
    else element.setAttribute('value', value)
  }
  return element
}

export function add(element, children) {
  for (const child of [children].flat(Infinity)) {
    if (child === null || child === undefined || child === false || child === '') continue
    element.append(child)
  }
  return element
}

export function show(element, ...children) {
  element.replaceChildren()
  return add(element, children)
}

const ICONS = {
  plug: 'M7 2v4M13 2v4M5 6h10v3a5 5 0 0 1-10 0zM10 14v4',
  stack: 'M10 3 2.5 7 10 11l7.5-4zM2.5 11 10 15l7.5-4',
  chat: 'M3 4h14v10H9l-4 3v-3H3z',
  chart: 'M3 17h14M5.5 14V9M10 14V4M14.5 14v-3',
  list: 'M7 5h10M7 10h10M7 15h10M3 5h.01M3 10h.01M3 15h.01',
  clock: 'M10 3a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM10 6v4l2.5 2',
  key: 'M12.5 3a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9zM9.3 10.7 3 17M5 15l2 2',
  gauge: 'M3 14a7 7 0 1 1 14 0M10 14l3.5-4',
  menu: 'M3 6h14M3 10h14M3 14h14',
  close: 'M5 5l10 10M15 5 5 15',
  copy: 'M7 7h9v9H7zM13 4H4v9',
  check: 'M4 10.5l4 4 8-9',
  eye: 'M2 10s3-5 8-5 8 5 8 5-3 5-8 5-8-5-8-5zM10 8a2 2 0 1 0 0 4 2 2 0 0 0 0-4z',
  eyeOff: 'M3 3l14 14M8 5.3C13.5 4 18 10 18 10a15 15 0 0 1-2.6 2.9M5.3 6.5A14 14 0 0 0 2 10s3 5 8 5c1 0 2-.2 2.8-.5',
  sync: 'M16 6.5A7 7 0 0 0 3.5 8M3.5 3.5V8H8M4 13.5A7 7 0 0 0 16.5 12M16.5 16.5V12H12',
  out: 'M8 3H4v14h4M12 6l4 4-4 4M16 10H8',
  link: 'M8 4H4v12h12v-4M11 3h6v6M17 3l-8 8',
  down: 'M10 3v10M6 9l4 4 4-4M4 17h12',
  chevron: 'M6 8l4 4 4-4',
  warn: 'M10 3 2 17h16zM10 8v4M10 14.5v.01',
  send: 'M10 16V4M5 9l5-5 5 5',
  stop: 'M6 6h8v8H6z',
  plus: 'M10 4v12M4 10h12',
}

export function icon(name) {
  return h('svg', { viewBox: '0 0 20 20', class: 'icon', 'aria-hidden': 'true', focusable: 'false' },
    h('path', { d: ICONS[name] }))
}

export function outward(url, ...children) {
  let to
  try { to = new URL(url) } catch { return null }
  if (to.protocol !== 'https:' && to.protocol !== 'http:') return null
  return h('a', { href: to.href, target: '_blank', rel: 'noopener noreferrer' }, children, icon('link'))
}
