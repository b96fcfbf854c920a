// The pages about usage, budgets and jobs.

import assert from 'node:assert/strict'
import test from 'node:test'
import { ann, ben, client, got, hello, plain } from './project.mjs'

const a = client('authenticated', ann)
const b = client('authenticated', ben)
const service = client('service_role')

for (const supabase of [a, a, b]) {
  await got(supabase.rpc('chat_complete', { model: 'm', messages: hello }))
}

test('the summary is of the user who asks', async () => {
  const [summary] = await got(a.rpc('usage_summary', { p_range: 'day' }))
  assert.deepEqual([summary.requests, summary.total_tokens, summary.total_cost, summary.errors], [2, 30, 0.00014, 0])
  const [others] = await got(b.rpc('usage_summary', { p_range: 'day' }))
  assert.equal(others.requests, 1)
  const [all] = await got(service.rpc('usage_summary', { p_range: 'day' }))
  assert.equal(all.requests, 3)
})

test('usage over time, by model and by status', async () => {
  const buckets = await got(a.rpc('usage_over_time', { p_range: 'day' }))
  assert.ok(buckets.length >= 24)
  assert.equal(buckets.reduce((sum, bucket) => sum + bucket.requests, 0), 2)
  const models = await got(a.rpc('usage_by_model', { p_range: 'day' }))
  assert.deepEqual(models.map((m) => [m.provider_name, m.model_id, m.requests]), [['standin', 'm', 2]])
  const statuses = await got(a.rpc('usage_by_status', { p_range: 'day' }))
  assert.deepEqual(statuses.map((s) => [s.status, s.requests]).filter(([, n]) => n > 0), [['success', 2]])
})

test('only a service sees usage by user', async () => {
  assert.ok((await a.rpc('usage_by_user', { p_range: 'day' })).error)
  const users = await got(service.rpc('usage_by_user', { p_range: 'day' }))
  assert.deepEqual(users.map((u) => [u.user_id, u.requests]).sort(), [[ann, 2], [ben, 1]])
})

test('the dashboard is a page of HTML', async () => {
  const page = await plain('/rpc/usage_dashboard?p_range=day', 'authenticated', ann, { accept: 'text/html' })
  assert.equal(page.status, 200)
  assert.match(page.headers.get('content-type'), /^text\/html/)
  const html = await page.text()
  assert.match(html, /^<!DOCTYPE html>/i)
  assert.ok(html.includes('Stand-in') || html.includes('standin'))
  assert.ok(!html.includes('<script'))
})

test('a budget is seen by whom it concerns', async () => {
  const each = await got(service.rpc('set_budget', { p_limit_usd: 1, p_each_user: true, p_period: 'day' }))
  await got(service.rpc('set_budget', { p_limit_usd: 50 }))
  const [mine, ...others] = await got(a.from('aggregator_budget_status').select('*'))
  assert.deepEqual(others, [])
  assert.deepEqual(
    [mine.budget_id ?? mine.id, mine.user_id, mine.limit_usd, mine.spent_usd, mine.left_usd],
    [each, ann, 1, 0.00014, 0.99986],
  )
  assert.ok((await got(service.from('aggregator_budget_status').select('*'))).length >= 3)
  assert.ok((await a.rpc('set_budget', { p_limit_usd: 1000 })).error)
})

test('a job is submitted, waited for and read', async () => {
  const body = { model: 'm', messages: hello, p_idempotency_key: 'once' }
  const job = await got(a.rpc('chat_submit', body))
  assert.equal(await got(a.rpc('chat_submit', body)), job)
  let [done] = await got(a.rpc('chat_wait', { p_job_id: job, p_timeout_ms: 5000 }))
  // On a busy machine that is not long.
  for (let i = 0; ['queued', 'running'].includes(done.status) && i < 10; i++) {
    ;[done] = await got(a.rpc('chat_wait', { p_job_id: job, p_timeout_ms: 5000 }))
  }
  assert.deepEqual([done.status, done.content, done.cost], ['succeeded', 're: hi', 0.00007])
  const [result] = await got(a.rpc('chat_result', { p_job_id: job }))
  assert.equal(result.response.choices[0].message.content, 're: hi')
  assert.deepEqual(await got(b.rpc('chat_result', { p_job_id: job })), [])
  assert.deepEqual(await got(b.from('aggregator_jobs').select('id')), [])
  assert.equal(await got(b.rpc('chat_cancel', { p_job_id: job })), false)
})

test('a job that waits is cancelled', async () => {
  const later = new Date(Date.now() + 3600_000).toISOString()
  const job = await got(a.rpc('chat_submit', { model: 'm', messages: hello, p_run_after: later }))
  assert.equal(await got(a.rpc('chat_cancel', { p_job_id: job })), true)
  const [row] = await got(a.from('aggregator_jobs').select('status').eq('id', job))
  assert.equal(row.status, 'cancelled')
})
