// Budgets and rate limits: what may be spent, what is, and what was warned of.
import { h } from './dom.js'
import * as api from './api.js'
import { badge, button, confirm, dialog, empty, field, form, heading, input, load, meter, select, skeleton, table, tell, whole } from './ui.js'
import { ago, count, short, usd } from './format.js'
import { numberOf, PERIODS, perPeriod } from './keys.js'

const WHOSE = { platform: 'the platform’s keys', own: 'users’ own keys', all: 'all keys' }

export function limits(page) {
  const place = h('div', {})
  const fresh = (rest = null) => load(place, () => api.get('limits'), (answer) => draw(answer, page, fresh), rest)
  fresh(skeleton(5, 'rows'))
  const isAdmin = page.me.is_admin && page.canWrite
  return h('div', {}, heading('Limits', isAdmin ? 'What may be spent, and how fast. What does not fit is not sent.' : 'What you may spend, and how fast. Administrators set it.',
    isAdmin && button('Rate limit', () => rateLimit(fresh), { sign: 'plus' }), isAdmin && button('Budget', () => budget(fresh), { kind: 'main', sign: 'plus' })), place)
}

function scope(rule, me) {
  return [
    rule.user_id && rule.user_id === me.user_id ? 'You' : rule.each_user ? (rule.user_id ? `Each user: ${rule.user_id}` : 'Each user') : rule.user_id ?? 'All users together',
    rule.provider && `at ${rule.provider}`,
    rule.model && `with ${rule.model}`,
    rule.tag && `tagged ${rule.tag}`,
  ].filter(Boolean).join(' ')
}

function amounts(budget) {
  return [
    budget.limit_usd !== null && [Number(budget.spent_usd) + Number(budget.reserved_usd), Number(budget.limit_usd),
      `${usd(budget.spent_usd)} of ${usd(budget.limit_usd)}${Number(budget.reserved_usd) > 0 ? `, ${usd(budget.reserved_usd)} reserved` : ''}`],
    budget.limit_tokens !== null && [budget.spent_tokens + budget.reserved_tokens, budget.limit_tokens, `${short(budget.spent_tokens)} of ${short(budget.limit_tokens)} tokens`],
    budget.limit_requests !== null && [budget.spent_requests + budget.reserved_requests, budget.limit_requests, `${count(budget.spent_requests)} of ${count(budget.limit_requests)} requests`],
  ].filter(Boolean)
}

function draw(answer, page, fresh) {
  const isAdmin = page.me.is_admin && page.canWrite
  const { budgets, rate_limits: rates, warnings } = answer
  if (budgets.length + rates.length + warnings.length === 0) {
    return empty('No limits', isAdmin ? 'Without one, users spend what their keys pay. Set one for each user, and one for all.' : 'No budget or rate limit holds for you.',
      isAdmin && button('Set a budget', () => budget(fresh), { kind: 'main' }))
  }
  const remove = (what, id, words) => button('Remove', () => confirm(`Remove this ${what}?`, words, 'Remove', async () => {
    await api.post(what === 'budget' ? 'remove-budget' : 'remove-rate-limit', { id })
    tell(`Removed the ${what}`)
    await fresh()
  }), { kind: 'small danger', 'aria-label': `Remove the ${what}: ${words}` })
  return [
    warnings.length > 0 && h('section.panel', {}, h('header', {}, h('h2', {}, 'Warnings'), h('span.soft', {}, 'of the last 30 days')), table('Warnings', [
      { label: 'When', main: true, cell: (row) => ago(row.created_at) },
      { label: 'Who', cell: (row) => row.user_id ?? 'all users together' },
      { label: 'Reached', cell: (row) => badge(`${row.percent} %`, row.percent >= 100 ? 'bad' : 'odd') },
      { label: 'Spent', num: true, cell: (row) => amounts(row)[0]?.[2] ?? usd(row.spent_usd) },
      { label: 'Period', rare: true, cell: (row) => (row.period ? perPeriod(row.period) : 'a budget that is gone') },
    ], warnings)),
    budgets.length > 0 && h('section', {}, h('h2.group', {}, 'Budgets'), h('ul.list', {}, budgets.map((one) => h('li.panel.keyrow', {},
      h('header', {}, h('div', {}, h('h3', {}, scope(one, page.me)), h('p.soft', {}, `${perPeriod(one.period)}, of ${WHOSE[one.keys]}`, one.resets_at && [' · begins anew ', ago(one.resets_at)])),
        badge(one.action === 'block' ? 'Blocks' : 'Only warns', one.action === 'block' ? 'main' : ''),
        isAdmin && h('div.row.far', {}, button('Change', () => budget(fresh, one), { kind: 'small', 'aria-label': `Change the budget: ${scope(one, page.me)}` }), remove('budget', one.id, `${scope(one, page.me)}, ${perPeriod(one.period)}`))),
      amounts(one).map(([spent, limit, words]) => meter(spent, limit, words, scope(one, page.me))))))),
    rates.length > 0 && h('section', {}, h('h2.group', {}, 'Rate limits'), h('div.panel.flush', {}, table('Rate limits', [
      { label: 'For', main: true, cell: (row) => scope(row, page.me) },
      { label: 'Requests / min', num: true, cell: (row) => count(row.requests_per_minute) },
      { label: 'Tokens / min', num: true, cell: (row) => count(row.tokens_per_minute) },
      isAdmin && { label: 'Change', act: true, cell: (row) => h('div.row', {}, button('Change', () => rateLimit(fresh, row), { kind: 'small', 'aria-label': `Change the rate limit: ${scope(row, page.me)}` }), remove('rate limit', row.id, scope(row, page.me))) },
    ].filter(Boolean), rates))),
  ]
}

function scoped(rule) {
  const who = select([['all', 'All users together'], ['each', 'Each user'], ['one', 'One user']], !rule ? 'each' : rule.each_user ? 'each' : rule.user_id ? 'one' : 'all')
  const user = input({ value: rule && !rule.each_user ? rule.user_id ?? '' : '', placeholder: 'id of the user' })
  const userField = field('User', user)
  const fold = () => { userField.hidden = who.value !== 'one' }
  who.addEventListener('change', fold)
  fold()
  const provider = input({ value: rule?.provider ?? '', placeholder: 'every provider' })
  const model = input({ value: rule?.model ?? '', placeholder: 'every model' })
  const tag = input({ value: rule?.tag ?? '', placeholder: 'every tag' })
  return {
    fields: [field('For', who), userField, h('div.pair', {}, field('Provider', provider, { optional: true }), field('Model', model, { optional: true })), field('Tag', tag, { optional: true })],
    value: () => ({
      each_user: who.value === 'each',
      user_id: who.value === 'one' ? user.value.trim() || null : null,
      provider: provider.value.trim() || null,
      model: model.value.trim() || null,
      tag: tag.value.trim() || null,
    }),
  }
}

const sameScope = (rule, given, keys) => keys.every((key) => (rule[key] ?? null) === (given[key] ?? null))

function budget(fresh, rule) {
  dialog(rule ? 'Change the budget' : 'New budget', (close) => {
    const dollars = input({ inputmode: 'decimal', value: rule?.limit_usd ? String(Number(rule.limit_usd)) : '', autofocus: true, placeholder: 'no limit' })
    const tokens = whole(rule?.limit_tokens, { min: '0' })
    const requests = whole(rule?.limit_requests, { min: '0' })
    const period = select(PERIODS, rule?.period ?? 'month')
    const action = select([['block', 'refuse what does not fit'], ['warn', 'only warn']], rule?.action ?? 'block')
    const keys = select([['', 'as is usual'], ['platform', 'the platform’s keys'], ['own', 'users’ own keys'], ['all', 'all keys']], rule?.keys ?? '')
    const about = scoped(rule)
    return form([
      h('div.pair', {}, field('USD', dollars, { optional: true }), field('Period', period)),
      h('div.pair', {}, field('Tokens', tokens, { optional: true }), field('Requests', requests, { optional: true })),
      about.fields,
      h('div.pair', {}, field('When it is reached', action), field('Counts', keys)),
    ], 'Save', async () => {
      const given = { ...about.value(), period: period.value, action: action.value, keys: keys.value || null }
      await api.post('set-budget', { ...given, limit_usd: numberOf(dollars), limit_tokens: numberOf(tokens), limit_requests: numberOf(requests) })
      // A rule is known by its scope: with another one it is another rule, and the old one goes.
      const old = rule && { ...rule, user_id: rule.each_user ? null : rule.user_id }
      if (rule && !sameScope(old, { ...given, keys: given.keys ?? rule.keys }, ['each_user', 'user_id', 'provider', 'model', 'tag', 'period', 'action', 'keys'])) {
        await api.post('remove-budget', { id: rule.id })
      }
      tell('Saved the budget')
      close()
      await fresh()
    }, close)
  })
}

function rateLimit(fresh, rule) {
  dialog(rule ? 'Change the rate limit' : 'New rate limit', (close) => {
    const requests = whole(rule?.requests_per_minute, { autofocus: true })
    const tokens = whole(rule?.tokens_per_minute)
    const about = scoped(rule)
    return form([h('div.pair', {}, field('Requests per minute', requests, { optional: true }), field('Tokens per minute', tokens, { optional: true })), about.fields], 'Save', async () => {
      const given = about.value()
      await api.post('set-rate-limit', { ...given, requests_per_minute: numberOf(requests), tokens_per_minute: numberOf(tokens) })
      if (rule && !sameScope(rule, given, ['each_user', 'user_id', 'provider', 'model', 'tag'])) await api.post('remove-rate-limit', { id: rule.id })
      tell('Saved the rate limit')
      close()
      await fresh()
    }, close)
  })
}
