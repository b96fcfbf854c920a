// Chats that run on their own: what waits, what runs, what came out.
import { h } from './dom.js'
import * as api from './api.js'
import { busy, button, confirm, copyButton, dialog, empty, field, heading, load, pages, problem, select, skeleton, tell } from './ui.js'
import { ago, count, money, precise, time } from './format.js'
import { statusBadge } from './usage.js'

const STATUSES = ['queued', 'running', 'succeeded', 'failed', 'cancelled']
const isOpen = (job) => job.status === 'queued' || job.status === 'running'

export function jobs(page) {
  const status = STATUSES.includes(page.query.get('status')) ? page.query.get('status') : ''
  const place = h('div', {})
  const fresh = (rest = null) => load(place, () => api.get('jobs', { status }), (answer) => draw(answer, status, page, fresh), rest)
  fresh(skeleton(8, 'rows'))
  const id = page.query.get('id')
  if (id) queueMicrotask(() => sheet(id, page, fresh, () => page.change('jobs', { status })))
  return h('div', {}, heading('Jobs', 'Chats that run on their own, and survive a crash.', button('Refresh', (event) => busy(event.currentTarget, fresh), { sign: 'sync' })),
    h('div.filters', {}, field('Status', select([['', 'All'], ...STATUSES.map((one) => [one, one])], status, { id: 'jobs-status', onchange: (event) => page.to('jobs', { status: event.target.value }) }))),
    place)
}

function draw(answer, status, page, fresh) {
  if (answer.jobs.length === 0) {
    return status ? empty('None', `No job is ${status}.`, button('See all', () => page.to('jobs')))
      : empty('No jobs yet', 'A job is a chat that waits for nobody.', h('div.code', {}, h('code', {}, "SELECT chat_submit('openai/gpt-4o-mini', '[…]');"), copyButton("SELECT chat_submit('openai/gpt-4o-mini', '[{\"role\": \"user\", \"content\": \"Hello\"}]');", 'the statement')))
  }
  const open = (job) => {
    page.change('jobs', { status, id: job.id })
    sheet(job.id, page, fresh, () => page.change('jobs', { status }))
  }
  const columns = [
    { label: 'Submitted', main: true, cell: (job) => h('button.as-link', { type: 'button', onclick: () => open(job) }, precise(job.created_at)) },
    { label: 'Model', cell: (job) => [h('span.name', {}, job.model), job.provider && h('small', {}, ` ${job.provider}`)] },
    page.me.is_admin && { label: 'User', rare: true, cell: (job) => h('span.name', {}, job.user_id) },
    { label: 'State', cell: (job) => [statusBadge(job.status), state(job)] },
    { label: 'Cost', num: true, cell: (job) => (isOpen(job) ? '–' : job.status === 'cancelled' && job.cost === null ? '–' : money(job.cost)) },
    { label: 'Cancel', act: true, cell: (job) => (isOpen(job) && page.canWrite ? button('Cancel', () => cancel(job, fresh), { kind: 'small', 'aria-label': `Cancel the job ${job.id}` }) : null) },
  ].filter(Boolean)
  return pages('Jobs', columns, answer.jobs, answer.next, open, async (before) => {
    const older = await api.get('jobs', { status, before })
    return [older.jobs, older.next]
  })
}

function state(job) {
  const words = job.status === 'queued' && new Date(job.run_after) > new Date() ? [' runs ', ago(job.run_after)]
    : job.status === 'running' ? [' since ', ago(job.started_at)]
      : job.error_code ? [` ${job.error_code}`] : job.finished_at ? [' ', ago(job.finished_at)] : null
  return words && h('small', {}, words)
}

function cancel(job, fresh) {
  confirm('Cancel this job?', job.status === 'running' ? 'Its request is cut off; what it used until then is logged and priced.' : 'It is not sent.', 'Cancel the job', async () => {
    const { cancelled } = await api.post('cancel-job', { id: job.id })
    tell(cancelled === false ? 'It had ended already' : 'Cancelled')
    await fresh()
  })
}

function sheet(id, page, fresh, onclose) {
  const place = h('div', {})
  dialog('Job', () => place, { kind: 'sheet', onclose })
  load(place, () => api.get('job', { id }), ({ job }) => {
    if (!job) return empty('It is not here', 'There is no such job, or it is not yours, or it ended long ago.')
    const fact = (label, value) => [h('dt', {}, label), h('dd', {}, value)]
    return [
      h('dl.facts', {}, fact('State', statusBadge(job.status)), fact('Model', job.model), fact('Provider', job.provider ?? '–'), fact('Model that answered', job.served_model ?? '–'),
        fact('Attempts', count(job.attempts)), fact('Submitted', precise(job.created_at)), fact('Runs after', time(job.run_after)), fact('Started', precise(job.started_at)), fact('Ended', precise(job.finished_at)),
        fact('Cost', isOpen(job) ? '–' : money(job.cost)), fact('Cost by', job.cost_source ?? '–'), page.me.is_admin && fact('User', job.user_id), fact('Idempotency key', job.idempotency_key ?? '–'),
        fact('Id', [h('code', {}, job.id), copyButton(job.id, 'the id')])),
      job.error && problem({ message: job.error.message ?? 'It failed.', name: job.error.code ?? '', hint: typeof job.error.hint === 'string' ? job.error.hint : null }),
      job.content !== null && h('section', {}, h('h3', {}, 'Answer'), h('div.with-copy', {}, h('div.said.boxed', { tabindex: '0' }, job.content), copyButton(job.content, 'the answer')),
        job.content_length > 100000 && h('p.note', {}, `The first 100,000 of ${count(job.content_length)} characters.`)),
      h('div.row', {}, h('a', { href: `#/requests?id=${job.id}` }, 'Its requests'), isOpen(job) && page.canWrite && button('Cancel', () => cancel(job, fresh), { kind: 'danger' })),
    ]
  }, skeleton(10))
}
