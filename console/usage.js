// What was used and what it cost: the numbers of usage_summary() and its kin.
import { h } from './dom.js'
import * as api from './api.js'
import { badge, button, csv, empty, field, heading, input, load, selectOf, skeleton, table, tabs, unique } from './ui.js'
import { count, exact, figure, money, ms, percent, plural, short, usd } from './format.js'
import { bars } from './chart.js'

const RANGES = { day: 'Last 24 hours', week: 'Last 7 days', month: 'Last 30 days' }
const SUMS = ['requests', 'errors', 'total_tokens', 'cost', 'unpriced_requests']
const MEASURES = { tokens: 'Tokens', cost: 'Cost', requests: 'Requests' }
const hour = new Intl.DateTimeFormat('en', { hour: '2-digit', minute: '2-digit', hourCycle: 'h23', timeZone: 'UTC' })
const day = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', timeZone: 'UTC' })

const tile = (label, value, note, kind = '') => h('div.panel.tile', {}, h('h2', {}, label), h('p.big', {}, value), h('p.note', { class: kind }, note))

export function usage(page) {
  const asked = {
    range: Object.hasOwn(RANGES, page.query.get('range')) ? page.query.get('range') : 'week',
    provider: page.query.get('provider'),
    user_id: page.me.is_reader || page.me.is_admin ? page.query.get('user_id') : null,
    by: Object.hasOwn(MEASURES, page.query.get('by')) ? page.query.get('by') : 'tokens',
  }
  const { by, ...parameters } = asked
  const place = h('div', {})
  const seesAll = page.me.is_reader || page.me.is_admin
  load(place, () => Promise.all([api.get('usage', parameters), seesAll ? api.get('usage-by-user', parameters) : null]),
    ([report, users]) => draw(report, users, asked, page), skeleton(5, 'report'))
  return h('div', {},
    heading('Usage', asked.user_id ? asked.user_id : seesAll ? 'All users together.' : 'What your calls used, and what they cost.',
      tabs('Range', Object.entries(RANGES).map(([key]) => [address({ ...asked, range: key }), key[0].toUpperCase() + key.slice(1), key]), asked.range)),
    filters(asked, page, seesAll), place)
}

const address = (asked) => `#/usage${api.query({ ...asked, by: asked.by === 'tokens' ? null : asked.by })}`

function filters(asked, page, seesAll) {
  const provider = selectOf('All providers', asked.provider, api.providerNames(), { id: 'usage-provider', onchange: () => page.to('usage', { ...asked, by: null, provider: provider.value }) })
  if (!seesAll) return h('div.filters', {}, field('Provider', provider))
  const names = unique('users')
  const list = h('datalist', { id: names })
  const user = input({ type: 'search', id: 'usage-user', value: asked.user_id ?? '', placeholder: 'All users', list: names,
    onchange: () => page.to('usage', { ...asked, by: null, user_id: user.value.trim() }) })
  api.get('users').then(({ users }) => list.append(...users.map((one) => h('option', { value: one }))), () => {})
  return h('div.filters', {}, field('Provider', provider), field('User', user), list)
}

function draw(report, users, asked, page) {
  const { summary } = report
  if (summary.requests === 0 && report.by_status.length === 0) {
    return empty('Nothing yet', 'No request was made in this time. One that is shows up here at once.', button('Try a model', () => page.to('playground'), { kind: 'main' }))
  }
  const perRequest = summary.requests ? summary.total_tokens / summary.requests : 0
  return [
    h('section.tiles', { 'aria-label': 'Summary' },
      tile('Tokens', figure(summary.total_tokens), `${short(Math.round(perRequest))} per request`),
      tile('Cost', money(summary.total_cost), summary.unpriced_requests ? `${plural(summary.unpriced_requests, 'request')} unpriced` : 'USD, every request priced', summary.unpriced_requests ? 'odd' : ''),
      tile('Requests', figure(summary.requests), summary.errors ? `${count(summary.errors)} failed` : 'none failed', summary.errors ? 'odd' : ''),
      tile('Average latency', ms(summary.avg_latency_ms), `95 % within ${ms(summary.p95_latency_ms)}`)),
    overTime(report, asked),
    group('By model', 'usage-by-model', report.by_model, [
      { label: 'Model', main: true, cell: (row) => [h('span.name', {}, row.model_id), h('small', {}, ` ${row.provider_name}`)] },
      ...figures,
      { label: 'Latency', num: true, rare: true, cell: (row) => ms(row.avg_latency_ms) },
    ], ['provider_name', 'model_id', 'prompt_tokens', 'completion_tokens', ...SUMS, 'avg_latency_ms']),
    statuses(report.by_status),
    group('By key', 'usage-by-key', report.by_key, [
      { label: 'Gateway key', main: true, cell: (row) => [h('span.name', {}, row.name ?? 'a key that is gone'), row.key_hint && h('small', {}, ' ', h('code', {}, `…${row.key_hint}`)), page.me.is_admin && h('small', {}, ` ${row.user_id}`)] },
      ...figures,
    ], ['gateway_key_id', 'name', 'key_hint', 'user_id', ...SUMS]),
    group('By tag', 'usage-by-tag', report.by_tag, [{ label: 'Tag', main: true, cell: (row) => h('span.name', {}, row.tag) }, ...figures],
      ['tag', ...SUMS]),
    users && group('By user', 'usage-by-user', users, [
      { label: 'User', main: true, cell: (row) => h('a.name', { href: address({ ...asked, user_id: row.user_id }) }, row.user_id) }, ...figures,
    ], ['user_id', ...SUMS]),
  ]
}

const figures = [
  { label: 'Requests', num: true, cell: (row) => [figure(row.requests), row.errors > 0 && h('small.odd', {}, ` ${count(row.errors)} failed`)] },
  { label: 'Tokens', num: true, cell: (row) => figure(row.total_tokens) },
  { label: 'Cost', num: true, cell: (row) => [money(row.cost), row.cost !== null && row.unpriced_requests > 0 && h('small.odd', {}, ` + ${count(row.unpriced_requests)} unpriced`)] },
]

const saver = (name, columns, rows) => button('CSV', () => csv(name, columns, rows), { kind: 'small', sign: 'down', 'aria-label': `Save ${name} as CSV` })

function group(title, name, { rows, total }, columns, fields) {
  if (rows.length === 0) return null
  const most = Math.max(...rows.map((row) => row.total_tokens), 1)
  return h('section.panel', {}, h('header', {}, h('h2', {}, title), saver(name, fields, rows)),
    table(title, columns, rows, { bars: (row) => row.total_tokens / most }),
    total > rows.length && h('p.note', {}, `The first ${count(rows.length)} of ${count(total)}.`))
}

function statuses(rows) {
  const all = rows.reduce((sum, row) => sum + row.requests, 0)
  return h('section.panel', {}, h('header', {}, h('h2', {}, 'By status'), saver('usage-by-status', ['status', 'requests', 'total_tokens', 'cost', 'unpriced_requests'], rows)),
    table('By status', [
      { label: 'Status', main: true, cell: (row) => statusBadge(row.status) },
      { label: 'Requests', num: true, cell: (row) => figure(row.requests) },
      { label: 'Share', num: true, cell: (row) => percent(row.requests / all) },
      { label: 'Cost', num: true, cell: (row) => money(row.cost) },
    ], rows, { bars: (row) => row.requests / all }))
}

export const statusBadge = (status) => badge(status, { success: 'good', succeeded: 'good', error: 'bad', failed: 'bad', unreachable: 'bad', running: 'main', pending: 'main' }[status] ?? 'odd')

function overTime(report, asked) {
  const rows = report.over_time
  const daily = asked.range !== 'day'
  const step = { day: 4, week: 1, month: 5 }[asked.range]
  const value = (row) => Number(row[asked.by] ?? 0)
  const said = asked.by === 'cost' ? (n) => (n === 0 ? '$0' : usd(String(n))) : (n) => (n < 10 ? String(Number(n.toFixed(2))) : short(n))
  const label = (row) => (daily ? day : hour).format(new Date(row.bucket))
  const chart = bars(`${MEASURES[asked.by]} over time`, rows.map((row, at) => {
    const back = rows.length - 1 - at
    return {
      label: label(row),
      tick: back % step === 0 ? ((back / step) % 2 === 1 ? 2 : 1) : 0,
      value: value(row),
      title: `${label(row)} UTC: ${count(row.tokens)} tokens, ${plural(row.requests, 'request')}, ${usd(row.cost)}${row.cost !== null && row.unpriced_requests ? ` and ${plural(row.unpriced_requests, 'unpriced request')}` : ''}`,
    }
  }), said)
  return h('section.panel', {},
    h('header', {}, h('h2', {}, 'Over time ', h('small', {}, 'UTC')),
      tabs('Measure', Object.entries(MEASURES).map(([key, text]) => [address({ ...asked, by: key }), text, key]), asked.by),
      saver('usage-over-time', ['bucket', 'requests', 'tokens', 'cost', 'unpriced_requests'], rows)),
    chart,
    h('details', {}, h('summary', {}, 'As a table'), table('Usage over time', [
      { label: daily ? 'Day' : 'Hour', main: true, cell: label },
      { label: 'Requests', num: true, cell: (row) => count(row.requests) },
      { label: 'Tokens', num: true, cell: (row) => count(row.tokens) },
      { label: 'Cost', num: true, cell: (row) => (row.cost === null ? 'unpriced' : `$${exact(row.cost)}`) },
      { label: 'Unpriced', num: true, rare: true, cell: (row) => count(row.unpriced_requests) },
    ], rows)))
}
