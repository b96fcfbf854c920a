// Gateway keys: what programs show over HTTP that hold no user's token.
import { h } from './dom.js'
import * as api from './api.js'
import { badge, button, confirm, copyButton, dialog, empty, field, form, heading, input, load, meter, select, skeleton, tell, toggle, whole } from './ui.js'
import { ago, count, time, usd } from './format.js'

export const PERIODS = [['hour', 'an hour'], ['day', 'a day'], ['week', 'a week'], ['month', 'a month'], ['total', 'in all']]
export const perPeriod = (period) => PERIODS.find(([key]) => key === period)?.[1] ?? period
export const numberOf = (control) => (control.value.trim() === '' ? null : control.value.trim())
const words = (text) => text.split(/[\n,]/).map((one) => one.trim()).filter(Boolean)

export function keys(page) {
  const place = h('div', {})
  const fresh = (rest = null) => load(place, () => api.get('gateway-keys'), ({ keys: all }) => draw(all, page, fresh), rest)
  fresh(skeleton(4, 'cards'))
  return h('div', {}, heading('Keys', 'For programs: a gateway key spends as you, within limits of its own.',
    button('New key', () => create(fresh), { kind: 'main', sign: 'plus', disabled: !page.canWrite })), place)
}

function draw(all, page, fresh) {
  const live = all.filter((key) => key.state === 'active')
  const gone = all.filter((key) => key.state !== 'active')
  return [
    live.length ? h('ul.list', {}, live.map((key) => card(key, page, fresh)))
      : empty('No keys yet', 'Make one for each program: what it may call, spend and send is set with it.', button('New key', () => create(fresh), { kind: 'main', disabled: !page.canWrite })),
    gone.length > 0 && h('details.gone', {}, h('summary', {}, `${count(gone.length)} revoked or expired`), h('ul.list', {}, gone.map((key) => card(key, page, fresh)))),
  ]
}

function card(key, page, fresh) {
  const isLive = key.state === 'active'
  const fact = (label, value) => h('div', {}, h('dt', {}, label), h('dd', {}, value))
  return h('li.panel.keyrow', {},
    h('header', {}, h('div', {}, h('h2', {}, key.name), h('p.soft', {}, h('code', {}, `agk_…${key.hint}`), !key.is_own && ` of ${key.user_id}`)),
      badge(key.state === 'active' ? 'Active' : key.state === 'revoked' ? 'Revoked' : 'Expired', isLive ? 'good' : ''),
      isLive && page.canWrite && h('div.row.far', {},
        button('Rotate', () => rotate(key, fresh), { kind: 'small', 'aria-label': `Rotate ${key.name}` }),
        button('Revoke', () => confirm(`Revoke “${key.name}”?`, 'From now on no request passes with it, and what waits is not sent. This cannot be undone.', 'Revoke', async () => {
          await api.post('revoke-gateway-key', { id: key.id })
          tell(`Revoked ${key.name}`)
          await fresh()
        }), { kind: 'small danger', 'aria-label': `Revoke ${key.name}` }))),
    key.budgets.map((budget) => {
      const spent = Number(budget.spent_usd) + Number(budget.reserved_usd)
      return budget.limit_usd !== null && meter(spent, Number(budget.limit_usd), `${usd(budget.spent_usd)} of ${usd(budget.limit_usd)} ${perPeriod(budget.period)}`, `Spent by ${key.name}`)
    }),
    h('dl.inline', {},
      fact('Models', key.models === null ? 'all' : key.models.length ? h('span.badges', {}, key.models.map((one) => badge(one))) : 'none'),
      key.tags?.length > 0 && fact('Tags', h('span.badges', {}, key.tags.map((one) => badge(one)))),
      (key.requests_per_minute || key.tokens_per_minute) && fact('Per minute', [key.requests_per_minute && `${count(key.requests_per_minute)} requests`, key.tokens_per_minute && `${count(key.tokens_per_minute)} tokens`].filter(Boolean).join(', ')),
      fact('Used', ago(key.last_used_at)),
      fact('Made', ago(key.created_at)),
      isLive ? fact('Expires', ago(key.expires_at)) : fact(key.state === 'revoked' ? 'Revoked' : 'Expired', time(key.revoked_at ?? key.expires_at)),
      key.old_valid_until && fact('Old secret passes until', time(key.old_valid_until)),
      h('div', {}, h('dt.unseen', {}, 'Requests'), h('dd', {}, h('a', { href: `#/requests?key=${key.id}` }, 'Requests')))))
}

/** The secret, this one time. */
function reveal(title, key) {
  dialog(title, (close) => {
    const stored = toggle('I have stored it', false)
    const done = button('Done', close, { kind: 'main', disabled: true })
    stored.addEventListener('change', (event) => { done.disabled = !event.target.checked })
    const copyIt = copyButton(key, 'the key')
    copyIt.setAttribute('autofocus', '')
    return [
      h('p', {}, 'This is shown once. Only its hash is kept here.'),
      h('div.code', {}, h('code', { 'data-secret': true }, key), copyIt),
      h('p.note', {}, `Programs take it as their API key, with the base URL ${new URL('../v1', document.baseURI).href}`),
      h('div.foot', {}, stored, done),
    ]
  }, { kind: 'narrow' })
}

function create(fresh) {
  dialog('New gateway key', (close) => {
    const name = input({ required: true, autofocus: true, maxlength: '255', placeholder: 'my agent' })
    const models = h('textarea', { rows: '2', placeholder: 'openai/gpt-4o-mini, anthropic/*', spellcheck: 'false' })
    const limit = input({ inputmode: 'decimal', placeholder: 'no limit' })
    const period = select(PERIODS, 'month')
    const requests = whole()
    const tokens = whole()
    const expires = input({ type: 'date', min: new Date(Date.now() + 86400000).toISOString().slice(0, 10) })
    const tags = input({ placeholder: 'agents, team a' })
    return form([
      field('Name', name, { hint: 'What or who it is for.' }),
      field('Models', models, { optional: true, hint: 'Ids, or beginnings with a * at the end, separated by commas. Empty: every model.' }),
      h('div.pair', {}, field('Limit in USD', limit, { optional: true }), field('for', period)),
      h('div.pair', {}, field('Requests per minute', requests, { optional: true }), field('Tokens per minute', tokens, { optional: true })),
      h('div.pair', {}, field('Expires', expires, { optional: true }), field('Tags', tags, { optional: true, hint: 'Of every call with it.' })),
    ], 'Make the key', async () => {
      if (!name.value.trim()) {
        name.focus()
        throw new Error('Give the key a name.')
      }
      const made = await api.post('create-gateway-key', {
        name: name.value.trim(),
        models: models.value.trim() ? words(models.value) : null,
        limit_usd: numberOf(limit),
        period: period.value,
        requests_per_minute: numberOf(requests),
        tokens_per_minute: numberOf(tokens),
        expires_at: expires.value ? new Date(`${expires.value}T00:00:00`).toISOString() : null,
        tags: tags.value.trim() ? words(tags.value) : null,
      })
      close()
      reveal(`Key “${name.value.trim()}”`, made.key)
      await fresh()
    }, close)
  })
}

function rotate(key, fresh) {
  dialog(`Rotate “${key.name}”`, (close) => {
    const grace = select([['0', 'at once'], ['1 hour', 'in an hour'], ['1 day', 'in a day'], ['7 days', 'in 7 days'], ['30 days', 'in 30 days']], '1 day')
    return form([
      h('p', {}, 'The key gets another secret; its id, limits and counts stay.'),
      field('The old secret stops', grace),
    ], 'Rotate', async () => {
      const made = await api.post('rotate-gateway-key', { id: key.id, grace: grace.value })
      close()
      reveal(`New secret of “${key.name}”`, made.key)
      await fresh()
    }, close)
  }, { kind: 'narrow' })
}
