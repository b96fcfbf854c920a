// Asking a model, with the answer as it comes and what it cost.
import { h, show } from './dom.js'
import * as api from './api.js'
import { button, copyButton, dialog, empty, field, heading, input, load, problem, select, skeleton, unique, whisper, whole } from './ui.js'
import { count, money, ms } from './format.js'
import { picker } from './picker.js'
import { LANGUAGES, snippet } from './snippets.js'

const LAST = 'aggregator.playground'

function remembered() {
  try {
    return JSON.parse(api.store.getItem(LAST)) ?? {}
  } catch {
    return {}
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader()
  let kept = ''
  try {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return
      kept += value
      const lines = kept.split(/\r?\n/)
      kept = lines.pop()
      for (const line of lines) {
        if (line.startsWith('data:')) yield line.slice(5).trim()
      }
    }
  } finally {
    reader.cancel().catch(() => {})
  }
}

export function playground(page) {
  const place = h('div', {})
  load(place, api.models, (list) => {
    const callable = list.providers.some((one) => one.models.some((model) => model.is_callable && model.type === 'chat'))
    return callable ? room(page, list) : empty('Nothing to ask yet', 'A model can be called once its provider has a key: yours, or the platform’s.', button('Add a key', () => page.to('providers'), { kind: 'main' }))
  }, skeleton(6, 'rows'))
  const root = h('div', {}, heading('Playground', 'Calls here are real: they spend your keys, and are in Usage.'), place)
  root.leave = () => place.querySelector('.room')?.leave?.()
  return root
}

function room(page, list) {
  const kept = remembered()
  const known = new Set(list.providers.flatMap((one) => one.models.filter((model) => model.is_callable && model.type === 'chat').map((model) => `${one.name}:${model.id}`)))
  const wanted = [page.query.get('model'), kept.model].find((one) => one && known.has(one)) ?? [...known].find((one) => /mini|flash|haiku/.test(one)) ?? [...known][0]
  const set = { model: wanted, system: kept.system ?? '', temperature: kept.temperature ?? '', most: kept.most ?? '' }
  const talk = []
  let running = null

  const choose = picker(list, set.model, (value) => { set.model = value; keep() })
  const system = h('textarea', { rows: '3', value: set.system, placeholder: 'Be brief.' })
  const temperature = input({ type: 'number', min: '0', max: '2', step: '0.1', value: set.temperature, placeholder: 'default', inputmode: 'decimal' })
  const most = whole(set.most, { placeholder: 'default' })
  const log = h('div.talk', { role: 'log', 'aria-live': 'off', 'aria-label': 'Conversation', tabindex: '0' })
  const text = h('textarea', { rows: '2', placeholder: 'Ask something', 'aria-label': 'Message', id: 'message' })
  const go = button('Send', null, { type: 'submit', kind: 'main', sign: 'send' })
  const stop = button('Stop', () => running?.abort(), { sign: 'stop', hidden: true })
  const first = h('div.empty.small', {}, h('p', {}, 'The answer comes here, piece by piece.'))
  show(log, first)

  function keep() {
    set.system = system.value
    set.temperature = temperature.value
    set.most = most.value
    api.store?.setItem(LAST, JSON.stringify(set))
  }

  function request(next) {
    const messages = [
      ...(set.system.trim() ? [{ role: 'system', content: set.system }] : []),
      ...talk.map(({ role, content }) => ({ role, content })),
      ...(next ? [{ role: 'user', content: next }] : []),
    ]
    return {
      model: set.model,
      messages,
      ...(set.temperature === '' ? {} : { temperature: Number(set.temperature) }),
      ...(set.most === '' ? {} : { max_tokens: Number(set.most) }),
    }
  }

  function say(role, content) {
    first.remove()
    const body = h('div.said', {}, content)
    const entry = h('article', { class: role }, h('h2', {}, role === 'user' ? 'You' : set.model.slice(set.model.indexOf(':') + 1)), body)
    log.append(entry)
    log.scrollTop = log.scrollHeight
    return { entry, body }
  }

  async function ask() {
    keep()
    const asked = text.value.trim()
    if (!asked || running) return
    const body = request(asked)
    say('user', asked)
    text.value = ''
    const { entry, body: said } = say('assistant', '')
    said.classList.add('waiting')
    const figures = h('p.figures', {})
    entry.append(figures)
    running = new AbortController()
    go.hidden = true
    stop.hidden = false
    stop.focus()
    whisper('Waiting for the answer')
    const began = performance.now()
    let firstAt = null
    let answer = ''
    let id = null
    let ended = ''
    try {
      const response = await api.send('../v1/chat/completions', { method: 'POST', signal: running.signal,
        body: { ...body, stream: true, stream_options: { include_usage: true } } })
      id = response.headers.get('x-request-id')
      for await (const data of events(response.body)) {
        if (data === '[DONE]') break
        const event = JSON.parse(data)
        if (event.error) throw new api.ApiError(response.status, event.error)
        const delta = event.choices?.[0]?.delta?.content
        if (typeof delta !== 'string' || delta === '') continue
        if (firstAt === null) {
          firstAt = performance.now()
          said.classList.remove('waiting')
          show(figures, `First token after ${ms(firstAt - began)}`)
        }
        answer += delta
        const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60
        said.append(delta)
        if (isAtEnd) log.scrollTop = log.scrollHeight
      }
      whisper('The answer is complete')
    } catch (error) {
      if (error.name === 'AbortError') {
        ended = 'Stopped. '
        whisper('Stopped')
      } else {
        entry.append(problem(error))
        log.scrollTop = log.scrollHeight
        whisper(`It failed: ${error.message}`)
      }
    }
    said.classList.remove('waiting')
    running = null
    stop.hidden = true
    go.hidden = false
    if (document.activeElement === document.body || document.activeElement === stop) text.focus()
    if (answer) {
      talk.push({ role: 'user', content: asked }, { role: 'assistant', content: answer })
    } else if (!said.textContent) said.remove()
    await settled(figures, id, { ended, first: firstAt === null ? null : firstAt - began })
    log.scrollTop = log.scrollHeight
  }

  const started = (event) => {
    event.preventDefault()
    ask()
  }
  text.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) started(event)
  })
  const root = h('div.room', {},
    h('form.panel.settings', { onchange: keep, onsubmit: (event) => event.preventDefault() },
      field('Model', choose, {}),
      field('System prompt', system, { optional: true }),
      h('div.pair', {}, field('Temperature', temperature), field('Max tokens', most)),
      h('div.row', {},
        button('Copy as code', () => code(request(text.value.trim() || (talk.length ? null : 'Hello'))), { sign: 'copy' }),
        button('New chat', () => {
          running?.abort()
          talk.length = 0
          show(log, first)
          text.focus()
        }))),
    h('section.panel.chat', { 'aria-label': 'Chat' }, log,
      h('form.ask', { onsubmit: started }, text, go, stop, h('p.note', {}, 'Enter sends, Shift and Enter begin a new line.'))))
  root.leave = () => running?.abort()
  return root
}

/** What the usage log says of it, a moment after the end. */
async function settled(place, id, { ended, first }) {
  let row = null
  for (let turn = 1; id && turn < 20 && (row === null || row.status === 'pending'); turn += 1) {
    await new Promise((done) => { setTimeout(done, 150 * turn) })
    try {
      const { attempts } = await api.get('request', { id })
      row = attempts.at(-1) ?? row
    } catch {
      break
    }
  }
  if (!place.isConnected) return
  const fact = (label, value) => [h('span', {}, h('span.soft', {}, `${label} `), value)]
  show(place, ended && h('b', {}, ended),
    fact('First token', ms(row?.time_to_first_token_ms ?? first)),
    row && [
      fact('Tokens', `${count(row.prompt_tokens)} in, ${count(row.completion_tokens)} out`),
      fact('Cost', [money(row.cost_estimate), row.cost_source === 'incomplete' ? ' (estimate)' : '']),
      fact('Took', ms(row.latency_ms)),
      fact('By', row.provider ?? ''),
      h('a', { href: `#/requests?id=${id}` }, 'In the log'),
    ])
}

function code(request) {
  const base = new URL('../v1', document.baseURI).href
  const id = unique('code')
  const pre = h('pre.code', { tabindex: '0', 'aria-label': 'Code' })
  let text = ''
  const draw = (language) => {
    text = snippet(language, base, request)
    show(pre, h('code', {}, text))
  }
  draw('curl')
  dialog('Copy as code', (close) => [
    field('For', select(LANGUAGES, 'curl', { id, onchange: (event) => draw(event.target.value) }), { hint: 'GATEWAY_KEY is a key of yours, made under Keys.' }),
    h('div.with-copy', {}, pre, copyButton(() => text, 'the code')),
    h('div.foot', {}, button('Done', close, { kind: 'main' })),
  ], { kind: 'wide' })
}
