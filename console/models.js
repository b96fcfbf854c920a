// What can be called and what it costs, by provider.
import { add, h, icon, show } from './dom.js'
import * as api from './api.js'
import { badge, button, busy, copyButton, empty, field, heading, input, load, problem, select, skeleton, table, toggle, whisper } from './ui.js'
import { ago, context, count, plural, price } from './format.js'
import { matcher } from './picker.js'

const AT_FIRST = 40
const WORDS = { functions: 'Tools', vision: 'Vision', audio: 'Audio', reasoning: 'Reasoning', streaming: 'Streaming', json: 'JSON', web_search: 'Search' }

const columns = (open) => [
  { label: 'Model', main: true, cell: (model) => h('div.model', {},
    h('span.name', {}, model.name),
    h('span.id', {}, h('code', {}, model.id), copyButton(model.id, model.id))) },
  { label: 'Context', num: true, cell: (model) => h('data', { value: model.context ?? 'unknown', title: model.context ? `${count(model.context)} tokens` : null }, context(model.context)) },
  { label: 'Input / 1M', num: true, cell: (model) => price(model.input) ?? h('span.odd', {}, 'unpriced') },
  { label: 'Output / 1M', num: true, cell: (model) => price(model.output) ?? (model.type === 'embedding' ? '–' : h('span.odd', {}, 'unpriced')) },
  { label: 'Can', rare: true, cell: (model) => h('span.badges', {}, model.type !== 'chat' && badge(model.type),
    model.capabilities.filter((one) => one !== 'streaming').slice(0, 5).map((one) => badge(WORDS[one] ?? one.replaceAll('_', ' ')))) },
  { label: 'Try', act: true, cell: (model) => (model.is_callable && model.type === 'chat'
    ? h('a.button.small', { href: `#/playground?model=${encodeURIComponent(`${open}:${model.id}`)}`, 'aria-label': `Try ${model.id}` }, 'Try') : null) },
]

export function models(page) {
  const asked = page.query
  const wanted = { q: asked.get('q') ?? '', provider: asked.get('provider') ?? '', can: asked.get('can') ?? '', mine: asked.get('mine') ?? '' }
  const place = h('div', {})
  const result = h('div', { 'aria-live': 'polite' })
  const tools = h('div.filters', { role: 'search' })
  let list = null

  const search = input({ type: 'search', value: wanted.q, placeholder: 'Name or id' })
  const can = select([['', 'Anything'], ['vision', 'See images'], ['functions', 'Use tools'], ['reasoning', 'Reason'], ['audio', 'Hear or speak'], ['priced', 'Be priced'], ['unpriced', 'Not priced']], wanted.can)
  const mine = toggle('Only what I can call', wanted.mine === '1')
  const provider = h('span', {})

  function groups() {
    const fits = matcher(wanted.q)
    return list.providers
      .filter((one) => !wanted.provider || one.name === wanted.provider)
      .map((one) => ({ ...one, models: one.models.filter((model) => (wanted.mine !== '1' || model.is_callable)
        && (!wanted.can || (wanted.can === 'unpriced' ? model.input === null : wanted.can === 'priced' ? model.input !== null : model.capabilities.includes(wanted.can)))
        && fits(model.id, model.name, one.display_name)) }))
      .filter((one) => one.models.length > 0)
  }

  function group(one) {
    const more = h('div.row.middle', {})
    const holder = h('div', {})
    const draw = (most) => {
      show(holder, table(`Models of ${one.display_name}`, columns(one.name), one.models.slice(0, most)))
      show(more, one.models.length > most && button(`Show all ${count(one.models.length)}`, () => draw(Infinity), { kind: 'small' }))
    }
    draw(AT_FIRST)
    return h('section.panel.flush', {},
      h('header', {}, h('h2', {}, one.display_name), badge(one.type === 'aggregator' ? 'Aggregator' : 'Direct', one.type === 'aggregator' ? 'main' : ''),
        h('span.soft', {}, plural(one.models.length, 'model')), h('span.soft.far', {}, 'synced ', ago(one.last_synced_at))), holder, more)
  }

  function draw() {
    const found = groups()
    page.change('models', wanted)
    if (list.shown === 0) {
      return show(place, empty('No models yet',
        page.me.is_admin ? 'Sync fetches the lists of the providers: names, prices, limits.' : 'Models are listed once a provider has a key. Add yours, and its list is fetched.',
        page.me.is_admin ? syncButton() : button('Add a key', () => page.to('providers'), { kind: 'main' })))
    }
    const total = found.reduce((sum, one) => sum + one.models.length, 0)
    show(place, found.length ? found.map(group) : empty('No model is like that', 'Look for less, or clear the filters.', button('Clear', () => page.to('models'))),
      list.total > list.shown && h('p.note', {}, `The first ${count(list.shown)} of ${count(list.total)} models are here.`))
    clearTimeout(draw.timer)
    draw.timer = setTimeout(() => whisper(plural(total, 'model')), 800)
    return undefined
  }

  function fresh() {
    return load(place, api.models, (value) => {
      list = value
      show(provider, field('Provider', select([['', 'All'], ...list.providers.map((one) => [one.name, one.display_name])], wanted.provider, { onchange: (event) => { wanted.provider = event.target.value; draw() } })))
      queueMicrotask(draw)
      return null
    }, list ? null : skeleton(10, 'rows'))
  }

  const syncButton = () => button('Sync', (event) => busy(event.currentTarget, () => sync(result, page, fresh)), { kind: 'main', sign: 'sync', disabled: !page.canWrite })

  search.addEventListener('input', () => {
    wanted.q = search.value
    clearTimeout(search.timer)
    search.timer = setTimeout(() => list && draw(), 120)
  })
  can.addEventListener('change', () => { wanted.can = can.value; draw() })
  mine.addEventListener('change', (event) => { wanted.mine = event.target.checked ? '1' : ''; draw() })
  add(tools, [field('Search', search, { wide: true }), provider, field('Can', can), mine])
  fresh()
  return h('div', {}, heading('Models', 'What can be called, and the price of a million tokens in USD.', syncButton()), result, tools, place)
}

async function sync(place, page, fresh) {
  const label = h('p', {}, 'Looking for providers…')
  const progress = h('progress', { max: '1', value: '0', 'aria-label': 'Sync' })
  show(place, h('div.panel.sync', {}, label, progress))
  try {
    const { providers } = await api.get('providers')
    const active = providers.filter((one) => one.is_active)
    // Whose list nobody would be shown, for want of a key, is left out.
    const all = page.me.is_admin
    const known = active.filter((one) => (all ? one.last_synced_at || one.is_spendable || one.has_platform_key || one.type === 'aggregator' : one.own_key?.is_active))
    const asked = known.length || !all ? known : active
    if (!asked.length) return show(place, problem({ message: 'You have no key of your own.', hint: 'What the platform pays for is synced by administrators.' }))
    const rows = []
    progress.max = asked.length
    for (const [at, one] of asked.entries()) {
      show(label, `${at + 1} of ${asked.length}: ${one.display_name}…`)
      try {
        const answer = await api.post(all ? 'sync' : 'sync-own', { provider: one.name })
        rows.push(...answer.providers.map((row) => ({ ...row, display_name: one.display_name })))
      } catch (error) {
        if (!api.isSignedIn()) throw error
        rows.push({ provider: one.name, display_name: one.display_name, error: error.message })
      }
      progress.value = at + 1
    }
    await page.refresh()
    await fresh()
    return show(place, synced(rows, () => show(place)))
  } catch (error) {
    return show(place, problem(error))
  }
}

function synced(rows, close) {
  const good = rows.filter((row) => !row.error)
  const bad = rows.filter((row) => row.error)
  const sum = (key) => good.reduce((all, row) => all + (row[key] ?? 0), 0)
  const words = `${plural(sum('models'), 'model')}: ${count(sum('new'))} new, ${count(sum('gone'))} gone`
    + (bad.length ? `, ${plural(bad.length, 'provider')} failed` : '')
  return h('div.panel.sync', {},
    h('div.line', { class: bad.length ? 'odd' : 'good' }, icon(bad.length ? 'warn' : 'check'), h('p', {}, h('b', {}, words)),
      h('button.bare.far', { type: 'button', 'aria-label': 'Close', onclick: close }, icon('close'))),
    h('details', { open: bad.length > 0 && bad.length < 4 }, h('summary', {}, 'Each provider'), table('Result of the sync', [
      { label: 'Provider', main: true, cell: (row) => row.display_name },
      { label: 'Models', num: true, cell: (row) => count(row.models) },
      { label: 'New', num: true, cell: (row) => count(row.new) },
      { label: 'Changed', num: true, cell: (row) => count(row.updated) },
      { label: 'Gone', num: true, cell: (row) => count(row.gone) },
      { label: 'Notes', cell: (row) => (row.error ? h('span.bad', {}, row.error) : row.warning_count ? h('details', {}, h('summary', {}, plural(row.warning_count, 'warning')), h('ul', {}, row.warnings.map((one) => h('li', {}, one)))) : '') },
    ], rows)))
}
