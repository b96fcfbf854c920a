// Choosing a model: a combobox with a listbox in groups, by the ARIA authoring practices.
import { h, icon, show } from './dom.js'
import { badge, unique } from './ui.js'
import { context, price } from './format.js'

const MOST = 150

export function matcher(wanted) {
  const words = wanted.toLowerCase().split(/\s+/).filter(Boolean)
  return (...texts) => {
    const all = texts.join(' ').toLowerCase()
    return words.every((word) => all.includes(word))
  }
}

export const priced = (model) => {
  if (model.input === null && model.output === null) return 'unpriced'
  if (Number(model.input) === 0 && Number(model.output ?? 0) === 0) return 'free'
  return `${price(model.input) ?? '?'} in, ${price(model.output) ?? '?'} out`
}

/** `list`: as /console/api/models gives it. `chosen(value)`: provider:model, by which a call is sent. */
export function picker(list, value, chosen) {
  const popup = unique('models')
  const text = h('input', { type: 'text', role: 'combobox', autocomplete: 'off', spellcheck: 'false', 'aria-expanded': 'false',
    'aria-controls': popup, 'aria-autocomplete': 'list', 'aria-haspopup': 'listbox', placeholder: 'Search models' })
  const box = h('div.options', { role: 'listbox', id: popup, 'aria-label': 'Models', hidden: true })
  const open = h('button.bare', { type: 'button', tabindex: '-1', 'aria-label': 'Show all models' }, icon('chevron'))
  const root = h('div.picker', {}, text, open, box)
  const all = list.providers.flatMap((provider) => provider.models
    .filter((model) => model.is_callable && model.type === 'chat')
    .map((model) => ({ provider, model, value: `${provider.name}:${model.id}` })))
  let options = []
  let active = -1

  const label = (entry) => (entry ? entry.model.id : '')
  const find = (wanted) => all.find((entry) => entry.value === wanted)
  text.value = label(find(value))

  function draw(wanted) {
    const fits = matcher(wanted)
    const found = all.filter(({ provider, model }) => fits(model.id, model.name, provider.name, provider.display_name))
    options = found.slice(0, MOST)
    active = -1
    const groups = new Map()
    options.forEach((entry, at) => {
      const rows = groups.get(entry.provider) ?? []
      rows.push(h('div.option', { role: 'option', id: `${popup}-${at}`, 'aria-selected': String(entry.value === value), 'data-at': String(at) },
        h('span.name', {}, entry.model.id),
        h('span.soft', {}, `${priced(entry.model)} · ${context(entry.model.context)}`)))
      groups.set(entry.provider, rows)
    })
    show(box, [...groups].map(([provider, rows]) => {
      const id = unique('group')
      return h('div', { role: 'group', 'aria-labelledby': id },
        h('div.group', { id, role: 'presentation' }, provider.display_name, provider.type === 'aggregator' && badge('Aggregator', 'main')), rows)
    }), found.length > MOST && h('p.note', { role: 'presentation' }, `and ${found.length - MOST} more: type to narrow them down`),
    found.length === 0 && h('p.note', { role: 'presentation' }, 'No model is called so.'))
    if (options.length && wanted) mark(0)
    else mark(options.findIndex((entry) => entry.value === value))
  }

  function mark(at) {
    box.querySelector('.active')?.classList.remove('active')
    active = at
    const option = at >= 0 ? box.querySelector(`[data-at="${at}"]`) : null
    if (!option) return text.removeAttribute('aria-activedescendant')
    option.classList.add('active')
    text.setAttribute('aria-activedescendant', option.id)
    // Within the list alone: the page stays where it is.
    const top = option.offsetTop - 34
    if (top < box.scrollTop) box.scrollTop = top
    else if (option.offsetTop + option.offsetHeight > box.scrollTop + box.clientHeight) box.scrollTop = option.offsetTop + option.offsetHeight - box.clientHeight
    return undefined
  }

  function unfold(wanted = '') {
    const isOpen = !box.hidden
    box.hidden = false
    text.setAttribute('aria-expanded', 'true')
    draw(isOpen || wanted ? wanted : '')
  }

  function fold(keep = true) {
    box.hidden = true
    text.setAttribute('aria-expanded', 'false')
    text.removeAttribute('aria-activedescendant')
    if (keep) text.value = label(find(value))
  }

  function choose(at) {
    const entry = options[at]
    if (!entry) return
    value = entry.value
    fold()
    chosen(value, entry)
  }

  text.addEventListener('input', () => unfold(text.value))
  text.addEventListener('click', () => { if (box.hidden) { unfold(); text.select() } })
  text.addEventListener('blur', () => fold())
  text.addEventListener('keydown', (event) => {
    const last = options.length - 1
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 }[event.key]
    if (step) {
      event.preventDefault()
      if (box.hidden) unfold()
      else if (Math.abs(step) === 1) mark(active + step < 0 ? last : active + step > last ? 0 : active + step)
      else mark(Math.min(Math.max(active + step, 0), last))
    } else if (event.key === 'Enter' && !box.hidden) {
      event.preventDefault()
      choose(active)
    } else if (event.key === 'Escape' && !box.hidden) {
      event.preventDefault()
      event.stopPropagation()
      fold()
    } else if (event.key === 'Home' && !box.hidden && event.ctrlKey) mark(0)
    else if (event.key === 'End' && !box.hidden && event.ctrlKey) mark(last)
  })
  box.addEventListener('mousedown', (event) => event.preventDefault())
  box.addEventListener('click', (event) => {
    const option = event.target.closest('.option')
    if (option) choose(Number(option.dataset.at))
  })
  open.addEventListener('mousedown', (event) => event.preventDefault())
  open.addEventListener('click', () => {
    if (box.hidden) {
      text.focus()
      unfold()
    } else fold()
  })
  return root
}
