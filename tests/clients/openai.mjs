// A program for OpenAI's API, unchanged: only the address and the key are others.

import assert from 'node:assert/strict'
import test from 'node:test'
import OpenAI from 'openai'
import { ann, client, gateway, got, token } from './project.mjs'

const a = client('authenticated', ann)
const url = await gateway((path) => path.replace(/^\/v1\/chat\/completions$/, '/rpc/chat_completions'))
const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: token('authenticated', ann) })
const say = (content, more = {}) => ({ model: 'm', messages: [{ role: 'user', content }], ...more })

test('a completion', async () => {
  const completion = await openai.chat.completions.create(say('hi', { temperature: 0.5, max_tokens: 20, seed: 7 }))
  assert.equal(completion.object, 'chat.completion')
  assert.equal(completion.choices[0].message.content, 're: hi')
  assert.equal(completion.choices[0].finish_reason, 'stop')
  assert.deepEqual(
    [completion.usage.prompt_tokens, completion.usage.completion_tokens, completion.usage.total_tokens],
    [10, 5, 15],
  )
  assert.equal(completion.aggregator.cost, 0.00007)
})

test('tools are called and answered', async () => {
  const tools = [{
    type: 'function',
    function: { name: 'weather', parameters: { type: 'object', properties: { city: { type: 'string' } } } },
  }]
  const messages = [{ role: 'user', content: 'call a tool' }]
  const first = await openai.chat.completions.create({ model: 'm', messages, tools, tool_choice: 'auto' })
  assert.equal(first.choices[0].finish_reason, 'tool_calls')
  const [call] = first.choices[0].message.tool_calls
  assert.deepEqual(JSON.parse(call.function.arguments), { city: 'Paris' })
  messages.push(first.choices[0].message, { role: 'tool', tool_call_id: call.id, content: 'sunny' })
  const second = await openai.chat.completions.create({ model: 'm', messages, tools })
  assert.equal(second.choices[0].message.content, 're: sunny')
})

test('a schema is kept and parsed', async () => {
  const schema = { type: 'object', properties: { n: { type: 'integer' } }, required: ['n'], additionalProperties: false }
  const completion = await openai.chat.completions.parse(
    say('answer as JSON', { response_format: { type: 'json_schema', json_schema: { name: 'n', strict: true, schema } } }),
  )
  assert.deepEqual(completion.choices[0].message.parsed, { n: 1 })
})

test('what the client retries by itself ends well', async () => {
  // Its first request is three of ours, all in vain, and its second is answered.
  const completion = await openai.chat.completions.create(say('broken at first'))
  assert.equal(completion.choices[0].message.content, 're: broken at first')
})

/// Fails as the class of error that programs catch, with our message and SQLSTATE.
async function fails(body, kind, status, message, by = openai, code = `PT${status}`) {
  const error = await by.chat.completions.create(body, { maxRetries: 0 }).then(() => assert.fail('no error'), (e) => e)
  assert.ok(error instanceof kind, error.constructor.name)
  assert.deepEqual([error.status, error.code], [status, code])
  assert.match(error.message, message)
}

test('errors are of the classes that programs catch', async () => {
  await fails(say('hi', { model: 'no-such-model' }), OpenAI.NotFoundError, 404, /no-such-model/)
  await fails(say('answer 429'), OpenAI.RateLimitError, 429, /standin/)
  await fails(say('hi', { messages: [] }), OpenAI.BadRequestError, 400, /messages/)
  await fails(say('answer 402'), OpenAI.APIError, 402, /standin/)
  await fails(say('answer 500'), OpenAI.InternalServerError, 502, /standin/)
  await fails(say('hi'), OpenAI.AuthenticationError, 401, /./, new OpenAI({ baseURL: `${url}/v1`, apiKey: 'no-token' }), 'PGRST301')
})

test('a stream is refused in clear words', () => fails(say('hi', { stream: true }), OpenAI.BadRequestError, 400, /stream/))

test('its usage is in the log', async () => {
  const rows = await got(a.from('aggregator_usage_logs').select('status, cost_estimate').order('created_at'))
  assert.equal(rows.filter((row) => row.status === 'success').length, 5)
})
