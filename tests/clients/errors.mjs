// Errors as an application sees them: SQLSTATE PTxxx becomes HTTP status xxx, and the body says what
// went wrong and what to do.

import assert from 'node:assert/strict'
import test from 'node:test'
import { ann, ben, client, got } from './project.mjs'

const a = client('authenticated', ann)
const b = client('authenticated', ben)
const service = client('service_role')

/// A chat in whose text the stand-in reads how to misbehave.
const chat = (text, options = {}, more = {}, by = a) =>
  by.rpc('chat_complete', {
    model: 'm',
    messages: [{ role: 'user', content: text }],
    options: { max_retries: 0, ...options },
    ...more,
  })

/// Fails with this status, and with a message and a hint for people.
async function fails(answer, expected, message) {
  const { data, error, status } = await answer
  assert.equal(data, null)
  assert.deepEqual([error.code, status], [`PT${expected}`, expected], JSON.stringify(error))
  assert.match(error.message, message)
  assert.ok(error.hint, JSON.stringify(error))
  assert.ok(!JSON.stringify(error).includes('sk-'), 'no key in an error')
}

test('400: an option that does not exist', () => fails(chat('hi', { temprature: 1 }), 400, /temprature/))

test('401: a key that the provider refuses', async () => {
  await got(a.rpc('save_provider_key', { p_provider: 'refusing', p_api_key: 'sk-bad-0123456789', p_validate: false }))
  await fails(chat('hi', {}, { provider: 'refusing' }), 401, /refusing/)
})

test('402: no credit left at the provider', () => fails(chat('answer 402'), 402, /standin/))

test('402: a budget that is spent, before anything is sent', async () => {
  const budget = await got(service.rpc('set_budget', { p_limit_usd: 0.0000001, p_user_id: ann, p_period: 'hour' }))
  await fails(chat('over the budget'), 402, /budget/)
  const [status] = await got(a.from('aggregator_budget_status').select('*'))
  assert.deepEqual([status.user_id, status.period, status.limit_usd], [ann, 'hour', 1e-7])
  assert.equal(await got(service.rpc('remove_budget', { p_id: budget })), true)
})

test('404: no such model', () => fails(chat('hi', {}, { model: 'no-such-model' }), 404, /no-such-model/))

test('429: the provider limits', () => fails(chat('answer 429'), 429, /standin/))

test('429: a limit of our own, before anything is sent', async () => {
  const limit = await got(service.rpc('set_rate_limit', { p_requests_per_minute: 1, p_user_id: ben }))
  await got(chat('within the limit', {}, {}, b))
  await fails(chat('over the limit', {}, {}, b), 429, /limit/)
  assert.equal(await got(service.rpc('remove_rate_limit', { p_id: limit })), true)
})

test('502: a provider that is broken', () => fails(chat('answer 500'), 502, /standin/))

test('504: a provider that is too slow', () => fails(chat('answer late', { timeout_ms: 3000 }), 504, /./))

test('an error as a value is no failure', async () => {
  const answer = await got(chat('answer 402', { throw_on_error: false }))
  assert.equal(answer.error.sqlstate, 'PT402')
  assert.ok(answer.error.message)
})

test('all of it is in the usage log', async () => {
  const rows = await got(
    a.from('aggregator_usage_logs').select('status, http_status').eq('status', 'error').order('created_at'),
  )
  assert.deepEqual(rows.map((row) => row.http_status), [401, 402, 429, 500, null, 402])
})
