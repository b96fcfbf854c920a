// The parts that every page is made of.
import { add, h, icon, show } from './dom.js'

let number = 0
export const unique = (what) => `${what}-${(number += 1)}`

export function tell(text, kind = 'good') {
  const region = document.getElementById('status')
  const note = h('p.toast', { class: kind }, icon(kind === 'bad' ? 'warn' : 'check'), h('span', {}, text))
  show(region, note)
  clearTimeout(tell.timer)
  tell.timer = setTimeout(() => note.remove(), 6000)
}

export function whisper(text) {
  show(document.getElementById('status'), h('p.unseen', {}, text))
}

export function button(label, onclick, { kind = '', sign, type = 'button', ...more } = {}) {
  return h('button.button', { type, onclick, class: kind, ...more }, sign && icon(sign), h('span', {}, label))
}

export async function busy(control, work) {
  if (control.getAttribute('aria-disabled') === 'true') return undefined
  control.setAttribute('aria-disabled', 'true')
  control.classList.add('busy')
  try {
    return await work()
  } finally {
    control.removeAttribute('aria-disabled')
    control.classList.remove('busy')
  }
}

export const badge = (text, kind = '') => h('span.badge', { class: kind }, text)

export function copyButton(text, what) {
  const control = h('button.bare', { type: 'button', 'aria-label': `Copy ${what}`, title: `Copy ${what}` }, icon('copy'))
  control.addEventListener('click', async (event) => {
    event.stopPropagation()
    await copy(typeof text === 'function' ? text() : text, what)
    show(control, icon('check'))
    setTimeout(() => show(control, icon('copy')), 1500)
  })
  return control
}

export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text)
  } catch {
    // Without TLS there is no clipboard but this one.
    const area = h('textarea.unseen', { value: text, 'aria-label': what })
    const holder = document.querySelector('dialog[open]') ?? document.body
    holder.append(area)
    area.select()
    document.execCommand('copy')
    area.remove()
  }
  tell(`Copied: ${what}`)
}

export function problem(error, retry) {
  return h('div.line.bad.problem', {},
    icon('warn'),
    h('div', {},
      h('p', {}, error.message),
      error.hint && h('p.note', {}, error.hint),
      h('p.codes', {}, error.name && h('code', {}, error.name), retry && button('Try again', retry, { kind: 'small' }))))
}

export function empty(title, text, ...actions) {
  return h('div.empty', {}, h('h2', {}, title), h('p', {}, text), actions.length > 0 && h('div.row.middle', {}, actions))
}

export function skeleton(rows = 4, kind = '') {
  return h('div.skeleton', { class: kind, 'aria-hidden': 'true' }, Array.from({ length: rows }, () => h('span', {})))
}

export function load(place, fetching, draw, rest = skeleton()) {
  const turn = (place.turn = (place.turn ?? 0) + 1)
  const again = () => load(place, fetching, draw, rest)
  if (rest) show(place, rest)
  place.setAttribute('aria-busy', 'true')
  return fetching().then(
    (value) => { if (place.turn === turn) show(place, draw(value)) },
    (error) => { if (place.turn === turn && error.name !== 'AbortError') show(place, problem(error, again)) },
  ).finally(() => { if (place.turn === turn) place.removeAttribute('aria-busy') })
}

export function heading(title, text, ...actions) {
  return h('header.page', {},
    h('div', {}, h('h1', { tabindex: '-1' }, title), text && h('p', {}, text)),
    actions.length > 0 && h('div.row', {}, actions))
}

export function field(label, control, { hint, wide, optional } = {}) {
  const id = control.id || unique('field')
  const about = unique('hint')
  const target = control.matches('input, select, textarea') ? control : control.querySelector('input, select, textarea')
  target.id = id
  if (hint) target.setAttribute('aria-describedby', about)
  return h('div.field', { class: wide ? 'wide' : '' },
    h('label', { for: id }, label, optional && h('span.soft', {}, ' optional')),
    control,
    hint && h('p.note', { id: about }, hint))
}

export const input = (props = {}) => h('input', { type: 'text', autocomplete: 'off', spellcheck: 'false', ...props })

export const whole = (value, props = {}) => input({ type: 'number', min: '1', inputmode: 'numeric', placeholder: 'no limit', value, ...props })

export function select(options, value, props = {}) {
  return h('select', { value, ...props }, options.map(([key, label]) => h('option', { value: key }, label)))
}

/** A select whose options come later; what is chosen is there at once. */
export function selectOf(all, chosen, fetching, props) {
  const control = select([['', all], ...(chosen ? [[chosen, chosen]] : [])], chosen ?? '', props)
  fetching.then((list) => {
    for (const [value, text] of list) {
      if (value === chosen) control.options[1].textContent = text
      else control.append(h('option', { value }, text))
    }
  }, () => {})
  return control
}

export function toggle(label, checked, props = {}) {
  return h('label.check', {}, h('input', { type: 'checkbox', checked, ...props }), h('span', {}, label))
}

export function tabs(label, choices, current) {
  return h('nav.tabs', { 'aria-label': label }, choices.map(([href, text, key]) =>
    h('a', { href, 'aria-current': key === current ? 'page' : null }, text)))
}

/** Columns: label, cell(row), and num, main, act or rare (gone where it is narrow). */
export function table(caption, columns, rows, { onrow, bars } = {}) {
  const kind = (column) => [column.num && 'num', column.main && 'main', column.rare && 'rare', column.act && 'act'].filter(Boolean).join(' ')
  return h('table', { role: 'table' },
    h('caption.unseen', {}, caption),
    h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, columns.map((column) =>
      h('th', { role: 'columnheader', scope: 'col', class: kind(column) }, column.act ? h('span.unseen', {}, column.label) : column.label)))),
    h('tbody', { role: 'rowgroup' }, rows.map((row) => {
      const line = h('tr', { role: 'row', class: onrow ? 'open' : '' }, columns.map((column) => {
        const cell = column.main
          ? h('th', { role: 'rowheader', scope: 'row', class: kind(column) })
          : h('td', { role: 'cell', class: kind(column), 'data-label': column.act ? null : column.label })
        add(cell, [column.cell(row)])
        if (column.main && bars) cell.append(bar(bars(row)))
        return cell
      }))
      if (onrow) {
        line.addEventListener('click', (event) => {
          if (!event.target.closest('a, button') && !String(getSelection())) onrow(row)
        })
      }
      return line
    })))
}

/** A table in pages; `fetch(next)` gives the next rows, and what comes after them. */
export function pages(caption, columns, rows, next, onrow, fetch) {
  const holder = h('div.panel.flush', {}, table(caption, columns, rows, { onrow }))
  const foot = h('div.row.middle', {})
  const more = (from) => show(foot, from && button('Older', (event) => busy(event.currentTarget, async () => {
    try {
      const [older, last] = await fetch(from)
      const lines = [...table(caption, columns, older, { onrow }).querySelectorAll('tbody > tr')]
      holder.querySelector('tbody').append(...lines)
      more(last)
      lines[0]?.querySelector('button')?.focus({ preventScroll: true })
    } catch (error) {
      add(foot, [problem(error)])
    }
  })))
  more(next)
  return [holder, foot]
}

export function bar(share, kind = '') {
  const width = Math.min(Math.max(share || 0, 0), 1)
  return h('span.track', { 'aria-hidden': 'true' }, h('span.fill', { class: kind, vars: { '--share': `${(100 * width).toFixed(2)}%` } }))
}

export function meter(spent, limit, words, label) {
  const share = limit > 0 ? spent / limit : spent > 0 ? 1 : 0
  const kind = share >= 1 ? 'bad' : share >= 0.8 ? 'odd' : ''
  return h('div.meter', { role: 'meter', 'aria-label': label, 'aria-valuemin': '0', 'aria-valuemax': '100',
    'aria-valuenow': String(Math.round(100 * Math.min(share, 1))), 'aria-valuetext': words }, h('span', {}, words), bar(share, kind))
}

export function dialog(title, draw, { kind = '', onclose } = {}) {
  const id = unique('title')
  const box = h('dialog', { class: kind, 'aria-labelledby': id })
  // At once, and not when the browser gets to its event: what stood in it may be a secret.
  const close = () => {
    box.close()
    box.remove()
  }
  box.addEventListener('close', () => {
    box.remove()
    onclose?.()
  })
  add(box, [
    h('div.top', {}, h('h2', { id, tabindex: '-1' }, title), h('button.bare', { type: 'button', 'aria-label': 'Close', onclick: close }, icon('close'))),
    h('div.body', {}, draw(close, box)),
  ])
  document.body.append(box)
  box.showModal()
  ;(box.querySelector('[autofocus]') ?? box.querySelector('h2')).focus()
  return close
}

export function closeAll() {
  for (const open of document.querySelectorAll('dialog[open]')) {
    open.close()
    open.remove()
  }
}

export function confirm(title, text, action, work) {
  dialog(title, (close) => {
    const wrong = h('div', { 'aria-live': 'polite' })
    const yes = button(action, () => busy(yes, async () => {
      try {
        await work()
        close()
      } catch (error) {
        show(wrong, problem(error))
      }
    }), { kind: 'danger' })
    return [h('p', {}, text), wrong, h('div.foot', {}, button('Keep it', close, { autofocus: true }), yes)]
  }, { kind: 'narrow' })
}

/** A form in a dialog: what `work` throws is shown above the buttons. */
export function form(fields, action, work, close) {
  const wrong = h('div', { 'aria-live': 'polite' })
  const save = button(action, null, { type: 'submit', kind: 'main' })
  return h('form', { novalidate: true, onsubmit: (event) => {
    event.preventDefault()
    busy(save, async () => {
      show(wrong)
      try {
        await work()
      } catch (error) {
        show(wrong, problem(error))
      }
    })
  } }, fields, wrong, h('div.foot', {}, button('Cancel', close), save))
}

/** Saves a file, in which a text that a spreadsheet would compute is kept a text. */
export function csv(name, columns, rows) {
  const cell = (value) => {
    const text = value === null || value === undefined ? '' : String(value)
    const safe = typeof value === 'string' && /^[=+@\t\r-]/.test(text) && !/^-?[\d.]+$/.test(text) ? `'${text}` : text
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe
  }
  const lines = [columns, ...rows.map((row) => columns.map((column) => row[column]))]
  const file = new Blob([lines.map((line) => line.map(cell).join(',')).join('\r\n') + '\r\n'], { type: 'text/csv' })
  const url = URL.createObjectURL(file)
  h('a', { href: url, download: `${name}.csv` }).click()
  setTimeout(() => URL.revokeObjectURL(url), 1000)
  tell(`Saved ${name}.csv`)
}

export function monogram(name, text = name) {
  let sum = 0
  for (const letter of name) sum = (sum * 31 + letter.codePointAt(0)) >>> 0
  return h('span.monogram', { vars: { '--hue': (sum % 12) * 30 }, 'aria-hidden': 'true' }, [...text][0]?.toUpperCase() ?? '?')
}
