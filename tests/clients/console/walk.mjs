// A user and an administrator walk through the console: a key that is refused and one that works, a sync, a chat that
// is stopped, its cost, and a gateway key from its making to its end.
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { gzipSync } from 'node:zlib'
import { BASE, accessible, becomes, close, go, nothingForeign, page, settled, whole } from './browser.mjs'

const { CONSOLE_USER, CONSOLE_ADMIN } = process.env
const HTTP = new URL('../v1', BASE).href
/** Has the provider refuse every key, or not any more. */
const refuse = (it) => fetch(`${process.env.CONSOLE_PROVIDER}/refuse/${it}`)
const GOOD = 'sk-good-walk-0123456789'
after(close)

async function signedIn(link) {
  const at = await page()
  await at.goto(link)
  await at.waitForSelector('.frame')
  // The code is in the address no more.
  await becomes(async () => at.url().includes('agc_'), false)
  await settled(at)
  return at
}

const user = await signedIn(CONSOLE_USER)
const admin = await signedIn(CONSOLE_ADMIN)

async function addKey(at, provider, key) {
  await at.getByRole('button', { name: `Add key for ${provider}` }).click()
  const dialog = at.getByRole('dialog')
  await dialog.getByLabel('API key').fill(key)
  await dialog.getByRole('button', { name: 'Check and save' }).click()
  return dialog
}

test('the first page leads on', async () => {
  await user.waitForSelector('.steps')
  await becomes(() => user.title(), 'Welcome · aggregator')
  await accessible(user, 'welcome')
  await user.getByRole('button', { name: 'Choose a provider' }).click()
  await user.getByRole('heading', { name: 'Providers' }).waitFor()
})

test('all of it is small, and comes from here', async () => {
  const loaded = await user.evaluate(() => performance.getEntriesByType('resource').map((one) => one.name))
  const files = [BASE, ...new Set(loaded.filter((name) => !name.includes('/console/api/')))].sort()
  assert.ok(files.length > 15 && files.every((name) => name.startsWith(BASE)), `${files}`)
  const texts = await Promise.all(files.map(async (name) => Buffer.from(await (await fetch(name)).arrayBuffer())))
  const size = gzipSync(Buffer.concat(texts), { level: 9 }).length
  assert.ok(size < 40 * 1024, `${size}`)
})

test('a key that is refused is not saved, and the words of the provider are shown as text', async () => {
  await go(user, 'providers')
  const dialog = await addKey(user, 'OpenRouter', 'sk-bad-0123456789')
  await dialog.getByText('OpenRouter refuses this key.').waitFor()
  assert.match(await dialog.locator('.quote').textContent(), /Incorrect API key <img src=x onerror="globalThis\.ran=1">/)
  assert.match(await dialog.locator('.codes').textContent(), /PT401 · key_refused/)
  await accessible(user, 'refused')
  await nothingForeign(user, 'refused')
  await dialog.getByRole('button', { name: 'Cancel' }).click()
  await go(user, 'providers')
  await user.getByRole('button', { name: 'Add key for OpenRouter' }).waitFor()
})

test('a provider that cannot be reached leaves the choice', async () => {
  await go(user, 'providers')
  const dialog = await addKey(user, 'Mistral AI', 'sk-unknown-0123456789')
  await dialog.getByText('The key could not be checked.').waitFor()
  await dialog.getByRole('button', { name: 'Save all the same' }).click()
  await dialog.getByText('Saved without a check.').waitFor()
  await dialog.getByRole('button', { name: 'Done' }).click()
  await user.getByRole('button', { name: 'Manage Mistral AI' }).click()
  await user.getByRole('dialog').getByRole('button', { name: 'Remove' }).click()
  await user.getByRole('dialog').getByRole('button', { name: 'Remove' }).click()
  await user.getByRole('button', { name: 'Add key for Mistral AI' }).waitFor()
})

test('a key that works is saved, and its models are fetched; what was pasted along with it is left out', async () => {
  await go(user, 'providers')
  await user.evaluate((key) => navigator.clipboard.writeText(`  "Bearer ${key}"\n`), GOOD)
  await user.getByRole('button', { name: 'Add key for OpenRouter' }).click()
  const dialog = user.getByRole('dialog')
  const field = dialog.getByLabel('API key')
  await field.focus()
  await user.keyboard.press('Control+V')
  await becomes(() => field.inputValue(), GOOD)
  assert.equal(await field.getAttribute('type'), 'password')
  await dialog.getByRole('button', { name: 'Show' }).click()
  await becomes(() => field.getAttribute('type'), 'text')
  await dialog.getByRole('button', { name: 'Check and save' }).click()
  await dialog.getByText('Valid: OpenRouter takes this key. Saved.').waitFor()
  await becomes(() => field.inputValue(), '')
  await dialog.getByText(/models listed/).waitFor()
  await accessible(user, 'saved')
  await dialog.getByRole('button', { name: 'Done' }).click()
  await user.getByRole('button', { name: 'Manage OpenRouter' }).click()
  await user.getByRole('dialog').getByRole('button', { name: 'Validate again' }).click()
  await user.getByText('Valid: the provider takes the key.').waitFor()
  // What the provider says when it does not any more.
  await refuse(true)
  await user.getByRole('dialog').getByRole('button', { name: 'Validate again' }).click()
  await user.getByRole('dialog').locator('.quote').getByText('Incorrect API key <img src=x onerror="globalThis.ran=1">').waitFor()
  await refuse(false)
  await accessible(user, 'manage')
  await user.getByRole('spinbutton', { name: 'Priority' }).fill('7')
  await user.getByRole('dialog').getByRole('button', { name: 'Save' }).click()
  await user.getByText('Saved OpenRouter').waitFor()
})

test('an administrator syncs, and is told what came of it', async () => {
  await go(admin, 'models')
  await admin.getByRole('button', { name: 'Sync' }).first().click()
  const said = admin.locator('.sync .line')
  await said.waitFor()
  await becomes(() => said.textContent(), /^\d+ models: \d+ new, 0 gone, 1 provider failed/)
  await admin.locator('.sync summary').first().waitFor()
  assert.match(await admin.locator('.sync').textContent(), /could not be reached/)
  await accessible(admin, 'synced')
  await nothingForeign(admin, 'synced')
})

test('a user syncs what their own key is shown', async () => {
  await go(user, 'models')
  await user.getByRole('button', { name: 'Sync' }).click()
  const said = user.locator('.sync .line')
  await said.waitFor()
  await becomes(() => said.textContent(), /^4 models: 0 new, 0 gone$/)
  await accessible(user, 'own sync')
})

test('models are found by what they are called, and say so where they have no price', async () => {
  await go(user, 'models')
  await user.getByRole('searchbox', { name: 'Search' }).fill('mystery')
  await user.waitForFunction(() => document.querySelectorAll('tbody tr').length === 1)
  await becomes(() => user.locator('tbody').textContent(), /unpriced/)
  await becomes(async () => user.url(), /#\/models\?q=mystery/)
  await user.getByRole('button', { name: 'Copy mystery/unpriced' }).click()
  await becomes(() => user.evaluate(() => navigator.clipboard.readText()), 'mystery/unpriced')
  // A name that would be markup is a name.
  await user.getByRole('searchbox', { name: 'Search' }).fill('onerror')
  await user.locator('tbody tr').filter({ hasText: 'onerror' }).waitFor()
  await becomes(() => user.locator('tbody .name').textContent(), /^<img src=x onerror="globalThis\.ran=1">/)
  await nothingForeign(user, 'models')
})

let callId
test('a chat is streamed, stopped by keyboard alone, and priced', async () => {
  await go(user, 'playground')
  const picker = user.getByRole('combobox', { name: 'Model' })
  await picker.click()
  await picker.fill('slow')
  const options = user.getByRole('option')
  await options.first().waitFor()
  await becomes(() => options.count(), 1)
  assert.equal(await picker.getAttribute('aria-activedescendant'), await options.first().getAttribute('id'))
  await accessible(user, 'picker')
  await picker.press('Escape')
  await picker.press('ArrowDown')
  await picker.fill('slow')
  await picker.press('Enter')
  await becomes(() => picker.inputValue(), 'local/slow')
  await user.getByRole('textbox', { name: 'Message' }).fill('Tell me a story')
  await user.keyboard.press('Enter')
  await user.getByText(/First token after/).waitFor()
  await user.waitForFunction(() => document.querySelector('.assistant .said')?.textContent.length > 20)
  // Stop has the focus.
  await user.keyboard.press('Enter')
  await user.getByText('Stopped.').waitFor()
  const figures = user.locator('.figures').last()
  await figures.getByText('Cost').waitFor()
  const link = await figures.getByRole('link', { name: 'In the log' }).getAttribute('href')
  callId = link.split('id=')[1]
  assert.ok(Number(await whole(figures)) > 0)
  await nothingForeign(user, 'stopped')
})

test('a whole answer says what it took, and its cost is the one in requests and in usage', async () => {
  const picker = user.getByRole('combobox', { name: 'Model' })
  await picker.fill('quick')
  await picker.press('Enter')
  await user.getByRole('textbox', { name: 'Message' }).fill('What is <b>bold</b>?')
  await user.getByRole('button', { name: 'Send' }).click()
  await user.getByText('re: What is <b>bold</b>?').waitFor()
  const figures = user.locator('.figures').last()
  await figures.getByText('Cost').waitFor()
  const cost = await whole(figures)
  assert.ok(Number(cost) > 0)
  const id = (await figures.getByRole('link', { name: 'In the log' }).getAttribute('href')).split('id=')[1]
  await accessible(user, 'playground')

  await go(user, 'requests')
  const row = user.locator('tbody tr').first()
  await becomes(() => row.textContent(), /local\/quick.*success/)
  await becomes(() => row.locator('data').last().getAttribute('value'), cost)
  await row.getByRole('button').click()
  const sheet = user.getByRole('dialog')
  await sheet.getByText(id, { exact: true }).first().waitFor()
  await becomes(() => sheet.textContent(), new RegExp(`\\$${cost.replace(/0+$/, '').replace('.', '\\.')}`))
  assert.ok(!(await sheet.textContent()).includes('bold'), 'a prompt is in the log')
  await accessible(user, 'request')
  await user.keyboard.press('Escape')
  await user.waitForFunction(() => !location.hash.includes('id='))

  await go(user, `requests?id=${callId}`)
  await user.getByRole('dialog').getByText('cancelled').first().waitFor()
  await user.keyboard.press('Escape')

  await go(user, 'usage?range=day')
  const tiles = user.locator('.tile')
  await becomes(() => whole(tiles.nth(2)), '2')
  const listed = await user.locator('section', { hasText: 'By model' }).last().locator('tbody tr').evaluateAll((rows) => rows.map((one) => Number([...one.querySelectorAll('data')].at(-1).value)))
  const sum = listed.reduce((all, one) => all + one, 0)
  assert.ok(Math.abs(sum - Number(await whole(tiles.nth(1)))) < 1e-12, `${listed}`)
  await accessible(user, 'usage')
})

test('an error shows its words and its code', async () => {
  await go(user, 'playground')
  await user.getByRole('textbox', { name: 'Message' }).fill('FAIL')
  await user.keyboard.press('Enter')
  const problem = user.locator('.chat .problem')
  await problem.waitFor()
  await becomes(() => problem.textContent(), /too long.*PT4\d\d · /s)
  await accessible(user, 'failed')
})

test('the request is there for other programs', async () => {
  await user.getByRole('textbox', { name: 'Message' }).fill("It's {\"a\": null}")
  await user.getByRole('button', { name: 'Copy as code' }).click()
  const dialog = user.getByRole('dialog')
  for (const [language, expected] of [['curl', /curl -N .*\/v1\/chat\/completions/], ['sql', /SELECT chat_complete\(/], ['python', /from openai import OpenAI/], ['node', /import OpenAI from 'openai'/], ['supabase', /supabase\.rpc\('chat_complete'/]]) {
    await dialog.getByRole('combobox').selectOption(language)
    await dialog.getByText(expected).waitFor()
    await becomes(() => dialog.locator('pre').textContent(), /It'/, language)
  }
  await accessible(user, 'code')
  await user.keyboard.press('Escape')
})

const call = (key) => fetch(`${HTTP}/chat/completions`, {
  method: 'POST',
  headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
  body: JSON.stringify({ model: 'local/quick', messages: [{ role: 'user', content: 'hi' }] }),
})

test('a gateway key is made, used, limited to what it may, and revoked', async () => {
  await go(user, 'keys')
  await user.getByRole('button', { name: 'New key' }).first().click()
  let dialog = user.getByRole('dialog')
  await dialog.getByRole('button', { name: 'Make the key' }).click()
  await dialog.getByText('Give the key a name.').waitFor()
  await dialog.getByLabel('Name').fill('my <agent>')
  await dialog.getByLabel('Models').fill('local/*')
  await dialog.getByLabel('Limit in USD').fill('5')
  await dialog.getByLabel('Tags').fill('agents, <b>')
  await accessible(user, 'new key')
  await dialog.getByRole('button', { name: 'Make the key' }).click()
  dialog = user.getByRole('dialog', { name: 'Key “my <agent>”' })
  const key = await dialog.locator('[data-secret]').textContent()
  assert.match(key, /^agk_[A-Za-z0-9]{49}$/)
  await becomes(() => dialog.getByRole('button', { name: 'Done' }).isDisabled(), true)
  await accessible(user, 'revealed')
  await dialog.getByLabel('I have stored it').check()
  await dialog.getByRole('button', { name: 'Done' }).click()
  await dialog.waitFor({ state: 'detached' })
  assert.ok(!(await user.content()).includes(key), 'the key is still in the page')

  const answer = await call(key)
  assert.equal(answer.status, 200)
  const { aggregator } = await answer.json()
  // It stands in the log once it is settled, which the answer does not wait for.
  await becomes(async () => {
    await go(user, 'requests?tag=agents')
    const cost = user.locator('tbody tr').filter({ hasText: 'success' }).locator('data').last()
    return (await cost.count()) === 1 && Number(await cost.getAttribute('value'))
  }, Number(aggregator.cost))
  assert.equal(await user.locator('tbody tr').count(), 1)

  // With it one can look, and change nothing.
  const at = await page()
  await at.goto(BASE)
  await at.getByLabel('Or paste a gateway key or an access token').fill(`Bearer ${key}`)
  await at.getByRole('button', { name: 'Sign in' }).click()
  await at.getByText('You are signed in with a gateway key').waitFor()
  await go(at, 'keys')
  await becomes(() => at.getByRole('button', { name: 'New key' }).first().isDisabled(), true)
  assert.equal(await at.getByRole('button', { name: /Revoke/ }).count(), 0)
  const refused = await fetch(new URL('api/create-gateway-key', BASE), { method: 'POST', headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' }, body: '{"name": "another"}' })
  assert.equal(refused.status, 403)

  await go(user, 'keys')
  await becomes(() => user.locator('.keyrow').first().textContent(), /my <agent>.*of \$5\.00 a month/)
  await user.getByRole('button', { name: 'Revoke my <agent>' }).click()
  await accessible(user, 'revoke')
  await user.getByRole('dialog').getByRole('button', { name: 'Revoke' }).click()
  await user.getByText('1 revoked or expired').waitFor()
  assert.equal((await call(key)).status, 401)
  // And whoever looked with it looks no more.
  await at.evaluate(() => { location.hash = '#/usage' })
  await at.getByRole('heading', { name: 'Sign in' }).waitFor()
  await accessible(at, 'signed out')
  await at.context().close()
})

test('an administrator sets limits, and a user is told of theirs', async () => {
  await go(admin, 'limits')
  await admin.getByRole('button', { name: 'Budget', exact: true }).click()
  let dialog = admin.getByRole('dialog')
  await dialog.getByLabel('USD').fill('-1')
  await dialog.getByRole('button', { name: 'Save' }).click()
  await dialog.getByText('PT400').waitFor()
  await dialog.getByLabel('USD').fill('3')
  await accessible(admin, 'budget')
  await dialog.getByRole('button', { name: 'Save' }).click()
  await admin.getByText('Saved the budget').waitFor()
  await admin.getByRole('button', { name: 'Rate limit', exact: true }).click()
  dialog = admin.getByRole('dialog')
  await dialog.getByLabel('Requests per minute').fill('600')
  await dialog.getByRole('button', { name: 'Save' }).click()
  await admin.getByText('Saved the rate limit').waitFor()
  await go(user, 'limits')
  await becomes(() => user.locator('main').textContent(), /of \$3\.00.*600/s)
  assert.equal(await user.getByRole('button', { name: /Budget|Remove|Change/ }).count(), 0)
  await accessible(user, 'limits')
})

test('a job is seen, with its answer, and one that waits is cancelled', async () => {
  await go(user, 'jobs')
  const rows = user.locator('tbody tr')
  await becomes(() => rows.count(), 2)
  await rows.filter({ hasText: 'succeeded' }).getByRole('button').first().click()
  const sheet = user.getByRole('dialog')
  await sheet.getByText('re: a job <i>').waitFor()
  await accessible(user, 'job')
  await user.keyboard.press('Escape')
  await rows.filter({ hasText: 'queued' }).getByRole('button', { name: /Cancel/ }).click()
  await user.getByRole('dialog').getByRole('button', { name: 'Cancel the job' }).click()
  await rows.filter({ hasText: 'cancelled' }).waitFor()
})

test('an administrator sees everybody, a user themselves alone', async () => {
  await go(admin, 'usage?range=day')
  await becomes(() => admin.locator('main').textContent(), /By user.*u-walk/s)
  assert.equal(await user.getByText('By user').count(), 0)
  for (const name of ['usage?user_id=u-other', 'usage-by-user', 'sync']) {
    const status = await user.evaluate(async ([path, method]) => (await fetch(`api/${path}`, { method, body: method === 'POST' ? '{}' : undefined,
      headers: { authorization: `Bearer ${sessionStorage.getItem('aggregator.token')}`, 'content-type': 'application/json' } })).status, [name, name === 'sync' ? 'POST' : 'GET'])
    assert.equal(status, 403, name)
  }
})

test('a link of a stranger signs nobody in unasked', async () => {
  const at = await page()
  await at.goto(`${BASE}#access_token=e30.${Buffer.from('{"sub": "<img src=x onerror=globalThis.ran=1>"}').toString('base64url')}.x`)
  await at.getByRole('heading', { name: 'Sign in with this link?' }).waitFor()
  await becomes(async () => at.url(), BASE)
  await accessible(at, 'asked')
  await nothingForeign(at, 'asked')
  await at.getByRole('button', { name: 'No' }).click()
  await at.getByRole('heading', { name: 'Sign in', exact: true }).waitFor()
  assert.equal(await at.evaluate(() => sessionStorage.length), 0)
  // And one that was used is good for nothing.
  await at.goto('about:blank')
  await at.goto(CONSOLE_USER)
  await at.locator('.problem').waitFor()
  await at.context().close()
})

test('who signs out is out', async () => {
  const token = await user.evaluate(() => sessionStorage.getItem('aggregator.token'))
  await user.getByRole('button', { name: 'Sign out' }).click()
  await user.getByRole('heading', { name: 'Sign in' }).waitFor()
  assert.equal((await fetch(new URL('api/me', BASE), { headers: { authorization: `Bearer ${token}` } })).status, 401)
  await nothingForeign(user, 'signed out')
  await nothingForeign(admin, 'at the end')
})
