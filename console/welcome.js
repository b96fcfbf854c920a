// The first visit: add a key, sync, try.
import { h, icon } from './dom.js'
import { button, heading } from './ui.js'

export function welcome(page) {
  const { setup } = page.me
  const steps = [
    { done: setup.providers > 0, title: 'Add a key', text: 'Keys of a provider stay yours: sealed here, spent by you alone.', href: '#/providers', action: 'Choose a provider' },
    { done: setup.models > 0, title: page.me.is_admin ? 'Sync the models' : 'See the models',
      text: page.me.is_admin ? 'Their names, prices and limits come from the providers’ lists.' : 'With the first key of a provider its models are listed here, with prices.', href: '#/models', action: page.me.is_admin ? 'Sync' : 'Models' },
    { done: setup.has_usage, title: 'Try one', text: 'Ask it something, and see what it cost to the last digit.', href: '#/playground', action: 'Playground' },
  ]
  const next = steps.findIndex((step) => !step.done)
  return h('div', {},
    heading('Welcome', 'Three steps to the first answer.'),
    h('ol.steps', {}, steps.map((step, at) => h('li.panel', { class: step.done ? 'done' : at === next ? 'next' : '' },
      h('span.step', { 'aria-hidden': 'true' }, step.done ? icon('check') : String(at + 1)),
      h('div', {}, h('h2', {}, step.title, step.done && h('span.unseen', {}, ' (done)')), h('p.soft', {}, step.text)),
      step.done ? null : button(step.action, () => { location.hash = step.href }, { kind: at === next ? 'main' : '' })))))
}
