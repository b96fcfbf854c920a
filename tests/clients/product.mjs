// What the pages of an application do, one after the other.

import assert from 'node:assert/strict'
import test from 'node:test'
import { ann, ben, client, code, got, hello } from './project.mjs'

const began = new Date().toISOString()
const [a, b, anon, service] = [
  client('authenticated', ann),
  client('authenticated', ben),
  client('anon'),
  client('service_role'),
]

test('anybody lists the active providers', async () => {
  for (const supabase of [anon, a]) {
    const providers = await got(supabase.from('api_providers').select('*').eq('is_active', true).order('name'))
    assert.ok(providers.some((p) => p.name === 'openrouter' && p.provider_type === 'aggregator'))
    assert.ok(providers.every((p) => p.is_active && p.name !== 'sleeping'))
  }
  assert.equal((await got(service.from('api_providers').select('name').eq('is_active', false))).length, 1)
})

test('without signing in nothing else is to be had', async () => {
  for (const table of [
    'user_api_providers', 'aggregator_models', 'aggregator_model_prices', 'aggregator_usage_logs', 'aggregator_jobs',
    'aggregator_budgets', 'aggregator_budget_status', 'aggregator_usage_hourly', 'aggregator_provider_health',
  ]) {
    const { data, error, status } = await anon.from(table).select('*')
    assert.deepEqual([table, data, error?.code, status], [table, null, '42501', 401])
  }
  for (const [name, body] of [
    ['get_user_available_models', {}],
    ['save_provider_key', { p_provider: 'standin', p_api_key: 'sk-good-anon-0123456789' }],
    ['chat_complete', { model: 'm', messages: hello }],
    ['usage_dashboard', {}],
  ]) {
    const { error, status } = await anon.rpc(name, body)
    assert.deepEqual([name, error?.code, status], [name, '42501', 401])
  }
  const { status } = await anon.from('api_providers').insert({ name: 'x' })
  assert.equal(status, 401)
})

test('a key is saved once the provider takes it', async () => {
  const refused = await a.rpc('save_provider_key', { p_provider: 'standin', p_api_key: 'sk-bad-0123456789' })
  assert.deepEqual([refused.error.code, refused.status], ['PT401', 401])
  assert.ok(!JSON.stringify(refused.error).includes('sk-bad-0123456789'))
  const id = await got(a.rpc('save_provider_key', { p_provider: 'standin', p_api_key: 'sk-good-ann-0123456789' }))
  assert.match(id, /^[0-9a-f-]{36}$/)
  await got(b.rpc('save_provider_key', { p_provider: 'standin', p_api_key: 'sk-good-ben-0123456789' }))
})

test('each sees their own keys, with the provider embedded', async () => {
  const keys = await got(a.from('user_api_providers').select('*, api_providers(*)'))
  assert.equal(keys.length, 1)
  assert.equal(keys[0].user_id, ann)
  assert.equal(keys[0].api_providers.name, 'standin')
  assert.equal(keys[0].api_providers.display_name, 'Stand-in')
  // Sealed, and the hint shows the ends only.
  assert.match(keys[0].api_key_encrypted, /^\\x/)
  const inside = Buffer.from(keys[0].api_key_encrypted.slice(2), 'hex').toString('latin1')
  assert.ok(!inside.includes('sk-good-ann'))
  assert.ok(keys[0].key_hint.endsWith('6789') && !keys[0].key_hint.includes('ann'))
  const others = await got(b.from('user_api_providers').select('user_id'))
  assert.deepEqual(others, [{ user_id: ben }])
})

test('a key is set aside and given priority, and no more', async () => {
  const changed = await got(
    a.from('user_api_providers').update({ priority: 7, settings: { note: 'mine' } }).eq('user_id', ann).select('priority'),
  )
  assert.deepEqual(changed, [{ priority: 7 }])
  assert.equal(await code(a.from('user_api_providers').update({ user_id: ben }).eq('user_id', ann)), '42501')
  assert.deepEqual(await got(a.from('user_api_providers').update({ priority: 9 }).eq('user_id', ben).select()), [])
  assert.equal(await code(a.from('user_api_providers').delete().eq('user_id', ann)), '42501')
})

test('a saved key is validated', async () => {
  assert.equal(await got(a.rpc('validate_provider_key', { p_provider: 'standin' })), true)
  assert.equal(await got(a.rpc('validate_provider_key', { p_provider: 'standin', p_api_key: 'sk-bad-0123456789' })), false)
  const [key] = await got(a.from('user_api_providers').select('last_validated_at'))
  assert.ok(key.last_validated_at)
})

test('a service syncs the models, and nobody else', async () => {
  assert.equal(await code(a.rpc('sync_models', { p_provider: 'standin' })), '42501')
  // What everybody sees is asked for with no user's key, and this provider shows its list to nobody without one.
  await got(service.rpc('save_platform_key', { p_provider: 'standin', p_api_key: 'sk-good-platform-0123' }))
  const [synced] = await got(service.rpc('sync_models', { p_provider: 'standin' }))
  assert.deepEqual([synced.provider_name, synced.error, synced.total], ['standin', null, 2])
  assert.equal(await got(service.rpc('remove_platform_key', { p_provider: 'standin' })), true)
})

test('the models are shown by provider', async () => {
  const models = await got(a.rpc('get_user_available_models'))
  const groups = Object.groupBy(models, (model) => model.provider_display_name)
  assert.deepEqual(Object.keys(groups), ['Stand-in'])
  assert.deepEqual(groups['Stand-in'].map((m) => m.model_id).sort(), ['m', 'v/plain'])
  const m = groups['Stand-in'].find((model) => model.model_id === 'm')
  assert.deepEqual(m.pricing, { input: 2, output: 10 })
  const none = await got(client('authenticated', '33333333-3333-4333-8333-333333333333').rpc('get_user_available_models'))
  assert.deepEqual(none, [])
})

let answer
test('a chat is answered, with its cost', async () => {
  answer = await got(a.rpc('chat_complete', { model: 'm', messages: hello, options: { temperature: 0.25 } }))
  assert.equal(answer.choices[0].message.content, 're: hi')
  assert.equal(answer.aggregator.provider, 'standin')
  assert.equal(answer.aggregator.cost, 0.00007)
  assert.equal(await got(b.rpc('chat', { prompt: 'ho', model: 'm' })), 're: ho')
})

test('nobody acts for another', async () => {
  for (const [name, body] of [
    ['chat_complete', { model: 'm', messages: hello, p_user_id: ben }],
    ['get_user_available_models', { p_user_id: ben }],
    ['calculate_provider_costs', { p_user_id: ben }],
    ['remove_provider_key', { p_provider: 'standin', p_user_id: ben }],
    ['usage_summary', { p_user_id: ben }],
  ]) {
    const { error, status } = await a.rpc(name, body)
    assert.deepEqual([name, error?.code, status], [name, 'PT403', 403])
  }
  const acted = await got(service.rpc('chat_complete', { model: 'm', messages: hello, p_user_id: ben }))
  assert.equal(acted.choices[0].message.content, 're: hi')
})

test('the usage log is read since a moment, by its owner', async () => {
  const rows = await got(a.from('aggregator_usage_logs').select('*').gte('created_at', began))
  assert.equal(rows.length, 1)
  const [row] = rows
  assert.equal(row.call_id, answer.aggregator.usage_log_id)
  assert.deepEqual(
    [row.user_id, row.model_id, row.status, row.prompt_tokens, row.completion_tokens, row.total_tokens, row.cost_estimate, row.cost_source],
    [ann, 'm', 'success', 10, 5, 15, 0.00007, 'computed'],
  )
  assert.deepEqual(await got(a.from('aggregator_usage_logs').select('*').lt('created_at', began)), [])
  const { count } = await b.from('aggregator_usage_logs').select('*', { count: 'exact', head: true })
  assert.equal(count, 2)
  assert.equal((await got(service.from('aggregator_usage_logs').select('call_id').gte('created_at', began))).length, 3)
  assert.equal(await code(a.from('aggregator_usage_logs').delete().eq('user_id', ann)), '42501')
})

test('the costs are summed up per provider and model', async () => {
  const costs = await got(a.rpc('calculate_provider_costs', { p_user_id: ann, p_start_date: began }))
  assert.equal(costs.length, 1)
  assert.deepEqual(
    [costs[0].provider_name, costs[0].model_id, costs[0].requests, costs[0].total_tokens, costs[0].cost],
    ['standin', 'm', 1, 15, 0.00007],
  )
  const before = await got(a.rpc('calculate_provider_costs', { p_user_id: ann, p_end_date: began }))
  assert.deepEqual(before, [])
})

test('a key is removed', async () => {
  assert.equal(await got(a.rpc('remove_provider_key', { p_provider: 'standin' })), true)
  assert.equal(await got(a.rpc('remove_provider_key', { p_provider: 'standin' })), false)
  const { error, status } = await a.rpc('chat_complete', { model: 'm', messages: hello })
  assert.deepEqual([error.code, status], ['PT404', 404])
  assert.equal((await got(b.from('user_api_providers').select('id'))).length, 1)
})
