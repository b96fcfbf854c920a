// A provider's key: adding one, and looking after it.
import { add, h, icon, outward, show } from './dom.js'
import * as api from './api.js'
import { badge, busy, button, confirm, dialog, field, input, problem, tell, toggle } from './ui.js'
import { ago, plural } from './format.js'
import { secret, trimmed } from './signin.js'

const isUnknown = (error) => error.status === 0 || error.status >= 500 || error.status === 429

export function addKey(provider, page, changed, { platform = false } = {}) {
  dialog(`${platform ? 'Platform key' : 'Key'} for ${provider.display_name}`, (close) => {
    const holder = secret({ autofocus: true, name: 'key', placeholder: provider.own_key ? `•••• ${provider.own_key.hint}` : '' })
    const text = holder.querySelector('input')
    const state = h('div.state', { 'aria-live': 'polite' })
    const save = button('Check and save', null, { type: 'submit', kind: 'main' })
    const footer = h('div.foot', {}, button('Cancel', close), save)
    const say = (kind, sign, ...words) => show(state, h('div.line', { class: kind }, sign && icon(sign), h('div', {}, words)))

    const saved = async (words) => {
      text.value = ''
      say('good', 'check', h('p', {}, words))
      show(footer, button('Done', close, { kind: 'main' }))
      footer.querySelector('button').focus()
      await page.refresh()
      changed()
      if (provider.models === 0) await fetched(provider, state, changed, platform ? 'sync' : 'sync-own')
    }
    const store = async (key, unchecked) => {
      if (platform) {
        if (!unchecked) {
          const { status, message } = await api.post('check-key', { provider: provider.name, key })
          if (status !== 'valid') throw new api.ApiError(424, { message, code: 'key_refused', sqlstate: 'PT401' })
        }
        return api.post('save-platform-key', { provider: provider.name, key })
      }
      return api.post('save-key', { provider: provider.name, key, unchecked })
    }
    const attempt = async (unchecked) => {
      const key = trimmed(text.value)
      text.removeAttribute('aria-invalid')
      if (!key) {
        say('bad', 'warn', h('p', {}, 'Paste the key first.'))
        text.setAttribute('aria-invalid', 'true')
        text.focus()
        return
      }
      say('', null, h('p.waiting', {}, unchecked ? 'Saving…' : `Checking with ${provider.display_name}…`))
      try {
        await store(key, unchecked)
        await saved(unchecked ? 'Saved without a check.' : `Valid: ${provider.display_name} takes this key. Saved.`)
      } catch (error) {
        if (error.code === 'key_refused') {
          say('bad', 'warn', h('p', {}, h('b', {}, `${provider.display_name} refuses this key.`)),
            h('p.quote', {}, error.message),
            h('p.note', {}, 'Nothing was saved. Check that all of it was copied, and that it is of this provider.'),
            error.name && h('p.codes', {}, h('code', {}, error.name)))
          text.setAttribute('aria-invalid', 'true')
          text.select()
        } else if (isUnknown(error) && !unchecked) {
          const anyway = button('Save all the same', () => busy(anyway, () => attempt(true)), { kind: 'small' })
          say('odd', 'warn', h('p', {}, h('b', {}, 'The key could not be checked.')), h('p', {}, error.message),
            h('p.codes', {}, error.name && h('code', {}, error.name), anyway))
        } else show(state, problem(error))
      }
    }
    return h('form', { novalidate: true, onsubmit: (event) => {
      event.preventDefault()
      busy(save, () => attempt(false))
    } },
    h('p', {}, platform
      ? 'Every user may spend it, after their own keys; nobody may read it.'
      : 'It is sealed, spent by you alone, and never shown again.'),
    field('API key', holder),
    provider.key_url && h('p', {}, 'No key yet? ', outward(provider.key_url, `Make one at ${host(provider.key_url)}`)),
    state, footer)
  }, { kind: 'narrow' })
}

const host = (url) => {
  try { return new URL(url).host } catch { return 'the provider' }
}

async function fetched(provider, state, changed, how) {
  const note = h('p.waiting', {}, 'Fetching its models…')
  add(state, [note])
  const { providers: [one] } = await api.post(how, { provider: provider.name })
    .catch((error) => ({ providers: [{ error: error.message }] }))
  note.classList.remove('waiting')
  show(note, one.error ?? `${plural(one.models, 'model')} listed.`)
  api.forgetModels()
  changed()
}

export function manageKey(provider, page, changed) {
  const after = async () => {
    await page.refresh()
    changed()
  }
  dialog(provider.display_name, (close) => {
    const key = provider.own_key
    const parts = []
    if (key) {
      const result = h('div.state', { 'aria-live': 'polite' })
      const again = button('Validate again', () => busy(again, async () => {
        show(result, h('p.waiting', {}, `Asking ${provider.display_name}…`))
        try {
          const { status, message } = await api.post('check-key', { provider: provider.name, key: null })
          show(result, status === 'valid'
            ? h('div.line.good', {}, icon('check'), h('p', {}, 'Valid: the provider takes the key.'))
            : h('div.line.bad', {}, icon('warn'), h('div', {}, h('p', {}, 'The provider refuses the key. Replace it.'), h('p.quote', {}, message))))
          await after()
        } catch (error) {
          show(result, problem(error))
        }
      }))
      const priority = input({ type: 'number', value: String(key.priority), step: '1', min: '-1000', max: '1000', inputmode: 'numeric' })
      const active = toggle('Active: calls may use this key', key.is_active)
      parts.push(h('section', {},
        h('h3', {}, 'Your key ', badge(key.is_active ? 'Active' : 'Off', key.is_active ? 'good' : '')),
        h('dl.facts', {},
          h('dt', {}, 'Ends in'), h('dd', {}, h('code', {}, key.hint)),
          h('dt', {}, 'Validated'), h('dd', {}, ago(key.last_validated_at)),
          h('dt', {}, 'Used'), h('dd', {}, ago(key.last_used_at))),
        h('div.row', {}, again, button('Replace', () => {
          close()
          addKey(provider, page, changed)
        }), button('Remove', () => {
          close()
          confirm(`Remove your ${provider.display_name} key?`, 'Calls go on with the platform’s key, if there is one. The key itself stays valid at the provider until it is revoked there.', 'Remove', async () => {
            await api.post('remove-key', { provider: provider.name })
            tell(`Removed your ${provider.display_name} key`)
            await after()
          })
        }, { kind: 'danger' })),
        result,
        h('form.row.end', { onsubmit: (event) => {
          event.preventDefault()
          const save = event.submitter ?? event.target.querySelector('button')
          busy(save, async () => {
            try {
              await api.post('change-key', { provider: provider.name, priority: Number.parseInt(priority.value, 10) || 0, is_active: active.querySelector('input').checked })
              tell(`Saved ${provider.display_name}`)
              await after()
              close()
            } catch (error) {
              show(result, problem(error))
            }
          })
        } },
        field('Priority', priority, { hint: 'Of several providers with a model, the higher goes first.' }), active,
        button('Save', null, { type: 'submit', kind: 'main' }))))
    } else {
      parts.push(h('section', {}, h('h3', {}, 'Your key'), h('p.soft', {}, provider.is_spendable ? 'None. Your calls here are paid for by the platform’s key.' : 'None.'),
        button('Add a key', () => {
          close()
          addKey(provider, page, changed)
        }, { sign: 'plus' })))
    }
    if (page.me.is_admin) {
      parts.push(h('section', {},
        h('h3', {}, 'Platform key ', badge(provider.has_platform_key ? 'Active' : 'None', provider.has_platform_key ? 'good' : '')),
        h('p.soft', {}, 'Spent for every user who has no key of their own.'),
        h('div.row', {}, button(provider.has_platform_key ? 'Replace' : 'Add', () => {
          close()
          addKey(provider, page, changed, { platform: true })
        }), provider.has_platform_key && button('Remove', () => {
          close()
          confirm(`Remove the platform’s ${provider.display_name} key?`, 'Users without a key of their own cannot call this provider any more.', 'Remove', async () => {
            await api.post('remove-platform-key', { provider: provider.name })
            tell(`Removed the platform’s ${provider.display_name} key`)
            await after()
          })
        }, { kind: 'danger' }))))
    }
    return parts
  })
}
