// The REST server kills a signed-in user's statement after 8 seconds. A model that takes longer ends
// in a clear answer before that, or in a job. All wait at the same time.

import assert from 'node:assert/strict'
import test from 'node:test'
import { ann, ben, client, got } from './project.mjs'

const a = client('authenticated', ann)
const slow = async (text, options) => {
  const began = Date.now()
  const body = { model: 'm', messages: [{ role: 'user', content: text }], options: { max_retries: 0, ...options } }
  const answer = await a.rpc('chat_complete', body)
  return { ...answer, ms: Date.now() - began }
}

const raised = slow('raises', {})
const value = slow('gives a value', { throw_on_error: false })
const queued = slow('is queued', { on_deadline: 'queue' })

test('a statement is killed after 8 seconds', async () => {
  const began = Date.now()
  const { error } = await a.rpc('sleep', { seconds: 20 })
  const ms = Date.now() - began
  assert.equal(error.code, '57014', JSON.stringify(error))
  assert.ok(ms > 7900 && ms < 18000, `${ms} ms`)
})

test('a slow model is a 504 shortly before', async () => {
  const { error, status, ms } = await raised
  assert.deepEqual([error.code, status], ['PT504', 504], JSON.stringify(error))
  // Later it would be killed, which is another error.
  assert.ok(ms > 6000, `${ms} ms`)
})

test('with throw_on_error false it is a value', async () => {
  const { data, error, ms } = await value
  assert.equal(error, null)
  assert.equal(data.error.sqlstate, 'PT504')
  // Later it would be killed, which is another error.
  assert.ok(ms > 6000, `${ms} ms`)
})

test('with on_deadline queue it becomes a job', async () => {
  const { data, error } = await queued
  assert.equal(error, null)
  assert.match(data.aggregator.job_id, /^[0-9a-f-]{36}$/)
  assert.equal(data.aggregator.status, 'running')
})

test('whose answer is read later, by its owner only', async () => {
  const job = (await queued).data.aggregator.job_id
  const result = (supabase) => got(supabase.rpc('chat_result', { p_job_id: job }))
  let [last] = await result(a)
  for (let i = 0; last.status === 'running' && i < 300; i++) {
    await new Promise((later) => setTimeout(later, 200))
    ;[last] = await result(a)
  }
  assert.equal(last.status, 'succeeded', JSON.stringify(last))
  assert.equal(last.content, 're: is queued')
  assert.equal(last.cost, 0.00007)
  assert.deepEqual(await result(client('authenticated', ben)), [])
  const [row] = await got(a.from('aggregator_jobs').select('*').eq('id', job))
  assert.deepEqual([row.user_id, row.status, row.attempts], [ann, 'succeeded', 1])
  const paid = await got(a.from('aggregator_usage_logs').select('status, cost_estimate').eq('call_id', job))
  assert.deepEqual(paid, [{ status: 'success', cost_estimate: 0.00007 }])
})
