// Vercel's AI SDK: its provider for servers of OpenAI's form, and its default one, which speaks Responses.

import { createOpenAI } from '@ai-sdk/openai'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { generateText, jsonSchema, streamText, tool } from 'ai'
import assert from 'node:assert/strict'
import test from 'node:test'

const { HTTP_URL: baseURL, HTTP_TOKEN: apiKey } = process.env
const providers = {
  compatible: createOpenAICompatible({ name: 'aggregator', baseURL, apiKey, includeUsage: true })('m'),
  responses: createOpenAI({ baseURL, apiKey })('m'),
  chat: createOpenAI({ baseURL, apiKey }).chat('m'),
}
const tools = {
  weather: tool({ inputSchema: jsonSchema({ type: 'object', properties: { city: { type: 'string' } } }) }),
}

for (const [name, model] of Object.entries(providers)) {
  test(`text by ${name}`, async () => {
    const { text, usage } = await generateText({ model, prompt: 'hi' })
    assert.equal(text, 're: hi')
    assert.equal(usage.outputTokens, 5)
  })

  test(`a stream by ${name}`, async () => {
    const result = streamText({ model, prompt: 'hi', onError: ({ error }) => assert.fail(error) })
    let text = ''
    for await (const piece of result.textStream) text += piece
    assert.equal(text, 're: hi')
    assert.equal((await result.usage).outputTokens, 5)
  })

  test(`a tool by ${name}`, async () => {
    const { toolCalls } = await generateText({ model, prompt: 'call a tool', tools })
    assert.deepEqual(toolCalls[0].input, { city: 'Paris' })
  })
}

test('an error says what it is', async () => {
  const model = createOpenAICompatible({ name: 'aggregator', baseURL, apiKey })('nobody-has-it')
  await assert.rejects(generateText({ model, prompt: 'hi', maxRetries: 0 }), (error) => error.statusCode === 404)
})
