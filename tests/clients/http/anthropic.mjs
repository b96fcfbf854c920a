// A program for Anthropic's API, unchanged, in front of providers of both forms.

import Anthropic from '@anthropic-ai/sdk'
import assert from 'node:assert/strict'
import test from 'node:test'

const baseURL = process.env.HTTP_URL.replace(/\/v1$/, '')
const apiKey = process.env.HTTP_TOKEN
const say = (model, content, more = {}) => ({ model, max_tokens: 100, messages: [{ role: 'user', content }], ...more })
const tools = [{ name: 'weather', input_schema: { type: 'object', properties: { city: { type: 'string' } } } }]

for (const version of ['2023-06-01', '2026-10-21']) {
  const anthropic = new Anthropic({ baseURL, apiKey, defaultHeaders: { 'anthropic-version': version } })

  for (const model of ['m', 'claude-x']) {
    test(`a message of ${model} by ${version}`, async () => {
      const message = await anthropic.messages.create(say(model, 'hi'))
      assert.equal(message.content.at(-1).text, 're: hi')
      assert.equal(message.stop_reason, 'end_turn')
      assert.ok(message._request_id)
    })

    test(`a stream of ${model} by ${version}`, async () => {
      const stream = anthropic.messages.stream(say(model, 'hi'))
      let text = ''
      stream.on('text', (piece) => { text += piece })
      const message = await stream.finalMessage()
      assert.equal(text, 're: hi')
      assert.equal(message.content.at(-1).text, 're: hi')
      assert.ok(message.usage.output_tokens > 0)
    })
  }

  test(`tools by ${version}`, async () => {
    const whole = await anthropic.messages.create(say('m', 'call a tool', { tools }))
    assert.equal(whole.stop_reason, 'tool_use')
    assert.deepEqual(whole.content.at(-1).input, { city: 'Paris' })
    const streamed = await anthropic.messages.stream(say('m', 'call a tool', { tools })).finalMessage()
    assert.deepEqual(streamed.content.at(-1).input, { city: 'Paris' })
  })

  test(`tokens by ${version}`, async () => {
    const { input_tokens } = await anthropic.messages.countTokens({ model: 'm', messages: [{ role: 'user', content: 'hi' }] })
    assert.ok(input_tokens > 0)
  })

  test(`errors by ${version}`, async () => {
    await assert.rejects(anthropic.messages.create(say('nobody-has-it', 'hi')), Anthropic.NotFoundError)
    await assert.rejects(anthropic.messages.create(say('m', 'fail with 400')), Anthropic.BadRequestError)
    const broken = say('m', 'break off', { max_retries: 0 })
    await assert.rejects(anthropic.messages.create(broken), Anthropic.InternalServerError)
    await assert.rejects(anthropic.messages.stream(broken).finalMessage(), Anthropic.APIError)
  })
}

test('what was not is sent again', async () => {
  const anthropic = new Anthropic({ baseURL, apiKey })
  const { content: [block] } = await anthropic.messages.create(say('m', 'be busy once', { max_retries: 0 }))
  assert.equal(block.text, 're: be busy once')
})

test('a stranger is told so', async () => {
  const anthropic = new Anthropic({ baseURL, apiKey: 'not-a-token' })
  await assert.rejects(anthropic.messages.create(say('m', 'hi')), Anthropic.AuthenticationError)
})

test('models', async () => {
  const ids = []
  for await (const model of new Anthropic({ baseURL, apiKey }).models.list()) ids.push(model.id)
  assert.ok(ids.includes('m') && ids.includes('claude-x'), `${ids}`)
})

test('a key as older libraries send it', async () => {
  const older = new Anthropic({ baseURL, apiKey: null, authToken: null, defaultHeaders: { 'x-api-key': apiKey } })
  assert.equal((await older.messages.create(say('m', 'hi'))).content[0].text, 're: hi')
})
