// Who can be asked, with whose key, and how they are doing.
import { h, outward } from './dom.js'
import * as api from './api.js'
import { badge, button, heading, load, monogram, skeleton } from './ui.js'
import { count, ms, plural, time } from './format.js'
import { addKey, manageKey } from './keydialog.js'

const ABOUT = {
  aihubmix: 'Models of many makers behind one key, with one bill.',
  openrouter: 'Hundreds of models of all makers behind one key.',
  openai: 'The GPT and o models, from their maker.',
  anthropic: 'The Claude models, from their maker.',
  gemini: 'Google’s Gemini models, with long contexts.',
  deepseek: 'DeepSeek’s chat and reasoning models.',
  mistral: 'Mistral’s models, hosted in Europe.',
  groq: 'Open models at high speed.',
  xai: 'The Grok models, from their maker.',
  together: 'Open models, hosted.',
}
const FEATURES = [['supports_streaming', 'Streaming'], ['supports_vision', 'Vision'], ['supports_functions', 'Tools'], ['supports_audio', 'Audio']]

function health(provider) {
  const { health: seen, own_key: key } = provider
  const rested = seen.cooling_until && new Date(seen.cooling_until) > new Date()
  if (seen.key_is_refused) return ['bad', 'Your key was refused. Replace it.']
  if (key && !key.is_active) return ['', 'Your key is switched off.']
  if (rested) return ['odd', ['Resting until ', time(seen.cooling_until), seen.reason && `: ${seen.reason}`]]
  if (seen.cooling_models > 0) return ['odd', `${plural(seen.cooling_models, 'model')} resting${seen.reason ? `: ${seen.reason}` : ''}`]
  if (seen.requests === 0) return ['', provider.is_spendable ? 'Not used in the last 24 hours.' : '']
  const failed = seen.errors / seen.requests
  const words = `${plural(seen.requests, 'request')} in 24 hours, ${seen.errors ? `${count(seen.errors)} failed` : 'none failed'}${seen.avg_latency_ms ? `, ${ms(seen.avg_latency_ms)} on average` : ''}`
  return [failed >= 0.5 ? 'bad' : failed >= 0.1 ? 'odd' : 'good', words]
}

function card(provider, page, changed) {
  const [kind, words] = health(provider)
  const has = provider.own_key || provider.is_spendable || provider.has_platform_key
  const state = provider.own_key ? (provider.own_key.is_active ? badge('Active', 'good') : badge('Off'))
    : provider.is_spendable || provider.has_platform_key ? badge('Platform key', 'good') : null
  const manage = button(has ? 'Manage' : 'Add key', () => (has || page.me.is_admin ? manageKey : addKey)(provider, page, changed),
    { kind: has ? '' : 'main', 'aria-label': `${has ? 'Manage' : 'Add key for'} ${provider.display_name}`, id: `card-${provider.name}`, disabled: !page.canWrite })
  return h('li.panel.card', {},
    h('header', {}, monogram(provider.name, provider.display_name),
      h('div', {}, h('h3', {}, provider.display_name), h('p.soft', {}, provider.host)), state),
    h('p.badges', {}, badge(provider.type === 'aggregator' ? 'Aggregator' : 'Direct', provider.type === 'aggregator' ? 'main' : ''),
      FEATURES.filter(([key]) => provider.features[key] === true).map(([, label]) => badge(label))),
    h('p.about', {}, ABOUT[provider.name] ?? `Speaks ${provider.standard === 'anthropic' ? 'Anthropic’s' : 'OpenAI’s'} format.`),
    h('p.health', { class: kind }, words && h('span.dot', { 'aria-hidden': 'true' }), words),
    h('footer', {},
      h('div.soft', {}, provider.models > 0
        ? h('a', { href: `#/models?provider=${encodeURIComponent(provider.name)}` }, plural(provider.models, 'model'))
        : 'No models listed yet',
      provider.unpriced_models > 0 && `, ${count(provider.unpriced_models)} unpriced`,
      provider.documentation_url && [' · ', outward(provider.documentation_url, 'Docs')]),
      manage))
}

export function providers(page) {
  const place = h('div', {})
  const draw = ({ providers: all }) => {
    const mine = all.filter((one) => one.own_key)
    const paid = all.filter((one) => !one.own_key && (one.is_spendable || one.has_platform_key))
    const rest = all.filter((one) => !mine.includes(one) && !paid.includes(one))
    const group = (title, text, list) => list.length > 0 && h('section', {},
      h('h2.group', {}, title, h('span.soft', {}, ` ${list.length}`)), text && h('p.soft', {}, text),
      h('ul.cards', {}, list.map((one) => card(one, page, fresh))))
    return [
      group('Your keys', null, mine),
      group('Paid by the platform', null, paid),
      group(mine.length + paid.length ? 'More providers' : 'Choose a provider', mine.length + paid.length ? null : 'Add a key of one of them, and its models can be called.', rest),
    ]
  }
  const fresh = () => {
    const at = document.activeElement?.id
    return api.get('providers').then((value) => load(place, async () => value, draw, null)).then(() => at && document.getElementById(at)?.focus())
  }
  load(place, () => api.get('providers'), draw, skeleton(6, 'cards'))
  return h('div', {}, heading('Providers', 'Who can be asked, and with whose key.'), place)
}
