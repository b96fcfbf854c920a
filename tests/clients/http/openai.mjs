// A program for OpenAI's API, unchanged: only the address and the key are others.

import assert from 'node:assert/strict'
import test from 'node:test'
import OpenAI from 'openai'

const { HTTP_URL: baseURL, HTTP_TOKEN: apiKey } = process.env
const openai = new OpenAI({ baseURL, apiKey })
const say = (content, more = {}) => ({ model: 'm', messages: [{ role: 'user', content }], ...more })
const tools = [{
  type: 'function',
  function: { name: 'weather', parameters: { type: 'object', properties: { city: { type: 'string' } } } },
}]

test('a completion', async () => {
  const { data, response } = await openai.chat.completions.create(say('hi')).withResponse()
  assert.equal(data.object, 'chat.completion')
  assert.equal(data.choices[0].message.content, 're: hi')
  assert.equal(data._request_id, response.headers.get('x-request-id'))
  assert.equal(data.aggregator.usage_log_id, data._request_id)
})

test('a stream', async () => {
  let text = ''
  let usage
  const stream = await openai.chat.completions.create(
    say('hi', { stream: true, stream_options: { include_usage: true } }),
  )
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta.content ?? ''
    usage = chunk.usage ?? usage
  }
  assert.equal(text, 're: hi')
  assert.equal(usage.total_tokens, 15)
})

test('a stream without usage has a choice in each chunk', async () => {
  for await (const chunk of await openai.chat.completions.create(say('hi', { stream: true }))) {
    assert.equal(chunk.choices.length, 1)
  }
})

test('the stream helper', async () => {
  const completion = await openai.chat.completions.stream(say('hi')).finalChatCompletion()
  assert.equal(completion.choices[0].message.content, 're: hi')
  assert.equal(completion.choices[0].finish_reason, 'stop')
})

test('tools, whole and streamed by an upstream that leaves out what it can', async () => {
  const first = await openai.chat.completions.create(say('call a tool', { tools }))
  assert.deepEqual(JSON.parse(first.choices[0].message.tool_calls[0].function.arguments), { city: 'Paris' })
  const streamed = await openai.chat.completions.stream(say('call a tool', { tools })).finalChatCompletion()
  const [call] = streamed.choices[0].message.tool_calls
  assert.deepEqual([call.function.name, JSON.parse(call.function.arguments)], ['weather', { city: 'Paris' }])
  assert.ok(call.id)
})

test('errors have their classes', async () => {
  const raises = (say, kind, more) =>
    assert.rejects(openai.chat.completions.create(say), (error) => {
      assert.ok(error instanceof kind, `${error}`)
      for (const [name, value] of Object.entries(more)) assert.equal(error[name], value)
      return true
    })
  await raises(say('hi', { model: 'nobody-has-it' }), OpenAI.NotFoundError, { code: 'model_not_found', param: 'model' })
  await raises(say('fail with 400'), OpenAI.BadRequestError, { status: 400 })
  await raises(say('hi', { temperature: 'hot' }), OpenAI.BadRequestError, { param: 'temperature' })
  const stranger = new OpenAI({ baseURL, apiKey: 'not-a-token' })
  await assert.rejects(stranger.chat.completions.create(say('hi')), OpenAI.AuthenticationError)
})

test('what may have been paid for is not sent again', async () => {
  await assert.rejects(openai.chat.completions.create(say('break off', { max_retries: 0 })), OpenAI.InternalServerError)
  await assert.rejects(openai.chat.completions.create(say('fail with 500', { max_retries: 0 })), OpenAI.InternalServerError)
})

test('what was not is sent again', async () => {
  const { choices: [choice] } = await openai.chat.completions.create(say('be busy once', { max_retries: 0 }))
  assert.equal(choice.message.content, 're: be busy once')
})

test('a stream that breaks off throws', async () => {
  const stream = await openai.chat.completions.create(say('break off', { stream: true, max_retries: 0 }))
  await assert.rejects(async () => {
    for await (const chunk of stream) assert.ok(chunk.choices)
  }, OpenAI.APIError)
})

test('models', async () => {
  const ids = []
  for await (const model of openai.models.list()) ids.push(model.id)
  assert.ok(ids.includes('m'), `${ids}`)
  assert.equal((await openai.models.retrieve('v/m')).id, 'v/m')
})

test('responses, whole and streamed', async () => {
  const whole = await openai.responses.create({ model: 'm', input: 'hi' })
  assert.equal(whole.output_text, 're: hi')
  const final = await openai.responses.stream({ model: 'm', input: 'hi' }).finalResponse()
  assert.equal(final.output_text, 're: hi')
  assert.equal(final.usage.total_tokens, 15)
})

test('embeddings, as base64 where nobody says, and as numbers', async () => {
  for (const more of [{}, { encoding_format: 'float' }]) {
    const answer = await openai.embeddings.create({ model: 'e', input: ['hi', 'hello'], ...more })
    assert.deepEqual(answer.data.map((one) => [...one.embedding]), [[2, 104, 0.5], [5, 104, 0.5]])
    assert.equal(answer.usage.total_tokens, 7)
    assert.ok(answer.aggregator.cost > 0)
  }
  const raw = await openai.embeddings.create({ model: 'e', input: 'hi', encoding_format: 'base64' })
  assert.equal(raw.data[0].embedding, 'AAAAQAAA0EIAAAA/')
})

test('embeddings that cannot be', async () => {
  const refused = (more, param) =>
    assert.rejects(openai.embeddings.create({ model: 'e', input: 'x', ...more }), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError, `${error}`)
      assert.equal(error.param, param)
      return true
    })
  await refused({ input: [1, 2] }, 'input')
  await refused({ dimensions: -1 }, 'dimensions')
})
