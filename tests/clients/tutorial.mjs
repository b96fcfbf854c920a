// The page of docs/tutorials/supabase.md, with as much of a browser as it needs. Signing in is Supabase's own.

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import test from 'node:test'
import { ann, ben, client } from './project.mjs'

const tutorial = await readFile(new URL('../../docs/tutorials/supabase.md', import.meta.url), 'utf8')
const code = [...tutorial.matchAll(/^```js\n(.*?)^```$/gms)].map(([, block]) => block).join('\n').replace(/^import .*$/gm, '')
const html = tutorial.match(/^```html\n(.*?)^```$/ms)[1]
const Script = (async () => {}).constructor

/// The page, opened by somebody.
async function page(user) {
  const alerts = []
  const elements = new Map()
  const element = (id) => ({
    id,
    textContent: '',
    children: [],
    reset() {},
    append(...children) { this.children.push(...children) },
    replaceChildren(...children) { this.children = children },
  })
  for (const [, id] of html.matchAll(/ id="([^"]+)"/g)) elements.set(id, element(id))
  elements.get('chat').elements = { model: element('model') }
  const document = { getElementById: (id) => elements.get(id) ?? assert.fail(`no ${id}`), createElement: (name) => `<${name}>` }
  const createClient = () => {
    const supabase = client('authenticated', user)
    return { rpc: (...call) => supabase.rpc(...call), auth: { signInWithPassword: async () => ({ error: null }) } }
  }
  class FormData {
    constructor(form) { this.form = form }
    [Symbol.iterator]() { return Object.entries(this.form.values)[Symbol.iterator]() }
  }
  class Option {
    constructor(text, value) { Object.assign(this, { text, value }) }
  }
  await new Script('createClient', 'document', 'FormData', 'Option', 'alert', code)(
    createClient, document, FormData, Option, (text) => alerts.push(text),
  )
  const submit = (id, values) => {
    const form = elements.get(id)
    form.values = values
    // Fields that the page does not have would be no values of its forms.
    for (const name of Object.keys(values)) assert.match(html, new RegExp(`<form id="${id}">.*name="${name}"`))
    return form.onsubmit({ preventDefault() {}, target: form })
  }
  return { alerts, element: (id) => elements.get(id), submit, models: () => elements.get('chat').elements.model.children }
}

test('a user signs in, saves a key, chats and sees the cost', async () => {
  const { alerts, element, submit, models } = await page(ann)
  await submit('sign-in', { email: 'ann@example.org', password: 'secret' })
  assert.deepEqual(models(), [])
  assert.match(element('cost').textContent, /^This week: 0 requests, 0 tokens, \$0$/)
  await submit('key', { key: 'sk-good-ann-0123456789' })
  const model = models().find((one) => one.value === 'openai/gpt-4o-mini')
  assert.equal(model.text, 'GPT-4o mini')
  await submit('chat', { model: model.value, text: 'Hello' })
  assert.deepEqual(element('answers').children, ['Hello', '<br>', 're: Hello', '<hr>'])
  assert.match(element('cost').textContent, /^This week: 1 requests, 15 tokens, \$0\.0000045$/)
  assert.deepEqual(alerts, [])
})

test('a call that takes longer than a statement may goes on as a job', async () => {
  const { element, submit } = await page(ann)
  await submit('chat', { model: 'openai/gpt-4o-mini', text: 'is queued' })
  assert.deepEqual(element('answers').children, ['is queued', '<br>', 're: is queued', '<hr>'])
  assert.match(element('cost').textContent, /^This week: 2 requests, /)
})

test('another user spends nothing of it, and sees nothing', async () => {
  const { alerts, element, submit, models } = await page(ben)
  await submit('sign-in', { email: 'ben@example.org', password: 'secret' })
  assert.deepEqual(models(), [])
  await submit('chat', { model: 'openai/gpt-4o-mini', text: 'Hello' })
  assert.equal(alerts.length, 1)
  assert.deepEqual(element('answers').children, [])
  assert.match(element('cost').textContent, /^This week: 0 requests/)
})
