// A real model, asked by OpenAI's, Anthropic's and Vercel's libraries.

import { createOpenAI } from '@ai-sdk/openai'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import Anthropic from '@anthropic-ai/sdk'
import { streamText } from 'ai'
import assert from 'node:assert/strict'
import test from 'node:test'
import OpenAI from 'openai'

const { HTTP_URL: baseURL, HTTP_TOKEN: apiKey } = process.env
const content = 'What is the capital of France? Answer in one sentence.'
const asked = { model: 'smollm2-135m', messages: [{ role: 'user', content }], max_tokens: 24, temperature: 0 }

test('openai', async () => {
  const openai = new OpenAI({ baseURL, apiKey })
  const { choices: [choice], usage } = await openai.chat.completions.create(asked)
  assert.match(choice.message.content, /Paris/)
  assert.ok(usage.total_tokens > 0)
  assert.match(await openai.chat.completions.stream(asked).finalContent(), /Paris/)
})

test('anthropic', async () => {
  // The API version of today takes no temperature.
  const defaultHeaders = { 'anthropic-version': '2023-06-01' }
  const anthropic = new Anthropic({ baseURL: baseURL.replace(/\/v1$/, ''), apiKey, defaultHeaders })
  assert.match(await anthropic.messages.stream(asked).finalText(), /Paris/)
})

for (const [name, model] of Object.entries({
  'openai-compatible': createOpenAICompatible({ name: 'aggregator', baseURL, apiKey })(asked.model),
  responses: createOpenAI({ baseURL, apiKey })(asked.model),
})) {
  test(`the AI SDK by ${name}`, async () => {
    const { textStream } = streamText({ model, prompt: content, maxOutputTokens: 24, temperature: 0, onError: ({ error }) => assert.fail(error) })
    let text = ''
    for await (const piece of textStream) text += piece
    assert.match(text, /Paris/)
  })
}
