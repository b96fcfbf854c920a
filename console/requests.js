// The usage log, newest first: every request that left. Prompts and answers are not in it.
import { h } from './dom.js'
import * as api from './api.js'
import { button, copyButton, dialog, empty, field, heading, input, load, pages, select, selectOf, skeleton } from './ui.js'
import { count, exact, figure, money, ms, precise } from './format.js'
import { statusBadge } from './usage.js'

const STATUSES = ['success', 'error', 'cancelled', 'pending', 'unknown']
const FILTERS = ['status', 'model', 'provider', 'key', 'tag', 'user_id']

export function requests(page) {
  const asked = Object.fromEntries(FILTERS.map((name) => [name, page.query.get(name)]))
  const seesAll = page.me.is_reader || page.me.is_admin
  const place = h('div', {})
  load(place, () => api.get('requests', { ...asked, limit: 50 }), (answer) => draw(answer, asked, page, seesAll), skeleton(10, 'rows'))
  const id = page.query.get('id')
  if (id) queueMicrotask(() => sheet(id, () => page.change('requests', asked)))
  return h('div', {}, heading('Requests', 'Every request that left, newest first. What was asked and answered is not kept.'), filters(asked, page, seesAll), place)
}

function filters(asked, page, seesAll) {
  const set = (name) => (event) => page.to('requests', { ...asked, [name]: event.target.value.trim() })
  const provider = selectOf('All', asked.provider, api.providerNames(), { id: 'requests-provider', onchange: set('provider') })
  const key = selectOf('All', asked.key, api.get('gateway-keys').then(({ keys }) => keys.map((one) => [one.id, `${one.name} …${one.hint}`])), { id: 'requests-key', onchange: set('key') })
  return h('div.filters', { role: 'search' },
    field('Status', select([['', 'All'], ...STATUSES.map((one) => [one, one])], asked.status ?? '', { id: 'requests-status', onchange: set('status') })),
    field('Provider', provider),
    field('Model', input({ type: 'search', id: 'requests-model', value: asked.model ?? '', placeholder: 'part of its id', onchange: set('model') })),
    field('Key', key),
    field('Tag', input({ type: 'search', id: 'requests-tag', value: asked.tag ?? '', onchange: set('tag') })),
    seesAll && field('User', input({ type: 'search', id: 'requests-user', value: asked.user_id ?? '', onchange: set('user_id') })),
    FILTERS.some((name) => asked[name]) && button('Clear', () => page.to('requests'), { kind: 'small' }))
}

function draw(answer, asked, page, seesAll) {
  if (answer.requests.length === 0) {
    return FILTERS.some((name) => asked[name])
      ? empty('Nothing is like that', 'No request fits all the filters.', button('Clear the filters', () => page.to('requests')))
      : empty('No requests yet', 'The first one stands here a moment after it was sent.', button('Try a model', () => page.to('playground'), { kind: 'main' }))
  }
  const open = (row) => {
    page.change('requests', { ...asked, id: row.call_id })
    sheet(row.call_id, () => page.change('requests', asked))
  }
  const columns = [
    { label: 'Time', main: true, cell: (row) => h('button.as-link', { type: 'button', onclick: () => open(row) }, precise(row.created_at)) },
    { label: 'Model', cell: (row) => [h('span.name', {}, row.model), h('small', {}, ` ${row.provider}${row.attempt > 1 ? ` · attempt ${row.attempt}` : ''}`)] },
    seesAll && { label: 'User', rare: true, cell: (row) => h('span.name', {}, row.user_id) },
    { label: 'Status', cell: (row) => [statusBadge(row.status), row.error_code && h('small', {}, ` ${row.error_code}`)] },
    { label: 'Tokens', num: true, cell: (row) => figure(row.total_tokens) },
    { label: 'Cost', num: true, cell: (row) => (row.status === 'pending' ? '–' : money(row.cost)) },
    { label: 'Latency', num: true, rare: true, cell: (row) => ms(row.latency_ms) },
  ].filter(Boolean)
  return pages('Requests', columns, answer.requests, answer.next, open, async (before) => {
    const older = await api.get('requests', { ...asked, limit: 50, before })
    return [older.requests, older.next]
  })
}

/** In the order in which one asks for them; any others come after. */
const COLUMNS = ('created_at status provider model_id served_model http_status error_code finish_reason prompt_tokens completion_tokens '
  + 'total_tokens cost_estimate cost_source latency_ms time_to_first_token_ms gateway_key tags user_id').split(' ')
const MONEY = new Set(['cost_estimate', 'cost_computed', 'reserved_cost'])
const label = (name) => name.replaceAll('_', ' ').replace(/ ms$/, '')

function shown(name, value) {
  if (value === null || value === undefined) return h('span.soft', {}, name.startsWith('cost_') && name !== 'cost_source' ? 'unknown' : '–')
  if (name === 'status') return statusBadge(value)
  if (name === 'created_at') return precise(value)
  if (MONEY.has(name)) return `$${exact(value)}`
  if (name.endsWith('_ms')) return ms(value)
  if (typeof value === 'boolean') return value ? 'yes' : 'no'
  if (typeof value === 'number' && name.endsWith('tokens')) return count(value)
  if (Array.isArray(value)) return value.join(', ')
  if (typeof value === 'object') return h('code', {}, JSON.stringify(value))
  return name.endsWith('id') && name !== 'user_id' && name !== 'model_id' ? [h('code', {}, String(value)), copyButton(String(value), label(name))] : String(value)
}

export function sheet(id, onclose) {
  const place = h('div', {})
  dialog('Request', () => place, { kind: 'sheet', onclose })
  load(place, () => api.get('request', { id }), ({ attempts }) => {
    if (attempts.length === 0) return empty('It is not here', 'There is no such request, or it is not yours.')
    return attempts.map((row) => {
      const names = [...COLUMNS, ...Object.keys(row).filter((name) => !COLUMNS.includes(name))]
      return h('section', {}, attempts.length > 1 && h('h3', {}, `Attempt ${row.attempt} of ${attempts.length}`),
        h('dl.facts', {}, names.map((name) => [h('dt', {}, label(name)), h('dd', {}, shown(name, row[name]))])))
    })
  }, skeleton(12))
}
