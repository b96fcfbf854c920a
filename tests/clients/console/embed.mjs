// An application of one's own opens the console, or has it in a frame, and signs its user in by posting an access token:
// from an origin that the administrator has listed, and from no other.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { after, test } from 'node:test'
import { BASE, accessible, becomes, close, nothingForeign, page, settled } from './browser.mjs'

const { CONSOLE_APP, CONSOLE_TOKEN, CONSOLE_NEXT_TOKEN, CONSOLE_OTHER_TOKEN } = process.env
// One server, and two names of it: of these, one is listed.
const LISTED = `http://127.0.0.1:${CONSOLE_APP}`
const STRANGER = `http://localhost:${CONSOLE_APP}`
// Of the form of an access token, and signed by nobody.
const REFUSED = `${CONSOLE_TOKEN.split('.').slice(0, 2).join('.')}.c2lnbmVk`
const application = createServer((_, response) => {
  response.setHeader('content-type', 'text/html')
  response.end('<!doctype html><title>app</title><script>globalThis.heard = []; addEventListener("message", (event) => heard.push([event.origin, event.data]))</script>')
})
await new Promise((done) => { application.listen(Number(CONSOLE_APP), done) })
after(() => {
  application.close()
  return close()
})

const post = (at, name, message) => at.evaluate(([to, data, origin]) => globalThis[to].postMessage(data, origin), [name, message, new URL(BASE).origin])

/** Once the console has taken all that was posted to it before. */
async function heardAll(app, console) {
  const last = console.evaluate(() => new Promise((done) => {
    addEventListener('message', (event) => { if (event.data === 'last') done() })
    globalThis.waits = true
  }))
  await console.waitForFunction(() => globalThis.waits)
  await post(app, 'console_', 'last')
  await last
}

async function opened(origin) {
  const app = await page({ also: [origin] })
  await app.goto(origin)
  const [console] = await Promise.all([app.waitForEvent('popup'), app.evaluate((base) => { globalThis.console_ = open(base) }, BASE)])
  await console.getByRole('heading', { name: 'Sign in' }).waitFor()
  return [app, console]
}

test('a listed application that opens it is told when it is there, and signs its user in', async () => {
  const [app, console] = await opened(LISTED)
  await becomes(() => app.evaluate(() => JSON.stringify(heard)), JSON.stringify([[new URL(BASE).origin, { aggregator: 'ready' }]]))
  // What is no access token is nothing.
  for (const message of ['ready', null, { access_token: 7 }, { access_token: 'agk_x' }, { access_token: ['a.b.c'] }, { token: CONSOLE_TOKEN }]) {
    await post(app, 'console_', message)
  }
  assert.equal(await console.evaluate(() => sessionStorage.length), 0)
  await post(app, 'console_', { access_token: CONSOLE_TOKEN })
  await console.locator('.who').getByText('u-1').waitFor()
  await settled(console)
  // A token of the same user takes its place, and one of another user does not.
  const kept = () => console.evaluate(() => sessionStorage.getItem('aggregator.token'))
  await post(app, 'console_', { access_token: CONSOLE_OTHER_TOKEN })
  await post(app, 'console_', { access_token: CONSOLE_NEXT_TOKEN })
  await becomes(kept, CONSOLE_NEXT_TOKEN)
  await console.reload()
  await console.locator('.who').getByText('u-1').waitFor()
  // Whoever signs out is out, and the application is not told to sign them in again.
  await console.getByRole('button', { name: 'Sign out' }).click()
  await console.getByRole('heading', { name: 'Sign in' }).waitFor()
  assert.equal(await app.evaluate(() => heard.length), 1)
  // Nor is a token taken that it posts all the same.
  await post(app, 'console_', { access_token: CONSOLE_NEXT_TOKEN })
  await heardAll(app, console)
  assert.equal(await kept(), null)
  await nothingForeign(console, 'opened')
  await app.context().close()
})

test('an application whose token is refused is not asked for it again and again', async () => {
  const [app, console] = await opened(LISTED)
  await becomes(() => app.evaluate(() => heard.length), 1)
  let asked = 0
  console.on('request', (request) => { asked += request.url().includes('/console/api/') ? 1 : 0 })
  await app.evaluate(([token, origin]) => addEventListener('message', ({ source, data }) => {
    if (data.aggregator === 'ready') source.postMessage({ access_token: token }, origin)
  }), [REFUSED, new URL(BASE).origin])
  await post(app, 'console_', { access_token: REFUSED })
  await console.locator('.problem').waitFor()
  // What the console posts comes in its order.
  await console.evaluate((origin) => opener.postMessage({ aggregator: 'last' }, origin), LISTED)
  await becomes(() => app.evaluate(() => heard.at(-1)[1].aggregator), 'last')
  await heardAll(app, console)
  assert.equal(await app.evaluate(() => heard.length), 2)
  assert.equal(asked, 1)
  // A good one that comes later is taken.
  await post(app, 'console_', { access_token: CONSOLE_TOKEN })
  await console.locator('.who').getByText('u-1').waitFor()
  await app.context().close()
})

test('the lines of the guide sign their user in', async () => {
  const guide = readFileSync(new URL('../../../docs/guides/console.md', import.meta.url), 'utf8')
  const examples = [...guide.matchAll(/^ *```js\n(.*?)^ *```$/gms)].map(([, code]) => code)
  assert.equal(examples.length, 1)
  const app = await page({ also: [LISTED] })
  await app.goto(LISTED)
  await app.evaluate((token) => { globalThis.freshToken = async () => token }, CONSOLE_TOKEN)
  await app.evaluate(examples[0].replaceAll('https://llm.example.org', new URL(BASE).origin))
  const [console] = await Promise.all([app.waitForEvent('popup'), app.evaluate((base) => { open(base) }, BASE)])
  await console.locator('.who').getByText('u-1').waitFor()
  await app.context().close()
})

test('a listed application has it in a frame', async () => {
  const app = await page({ also: [LISTED] })
  await app.goto(LISTED)
  await app.evaluate((base) => {
    const frame = document.createElement('iframe')
    frame.src = base
    frame.title = 'console'
    frame.width = '1200'
    frame.height = '800'
    document.body.append(frame)
    globalThis.frame = frame.contentWindow
  }, BASE)
  await becomes(() => app.evaluate(() => heard.length), 1)
  await post(app, 'frame', { access_token: CONSOLE_TOKEN })
  await app.frameLocator('iframe').locator('.who').getByText('u-1').waitFor()
  await app.context().close()
})

test('a stranger hears nothing, signs nobody in, and has it in no frame', async () => {
  const [app, console] = await opened(STRANGER)
  await post(app, 'console_', { access_token: CONSOLE_TOKEN })
  await heardAll(app, console)
  assert.equal(await console.evaluate(() => sessionStorage.length), 0)
  assert.equal(await app.evaluate(() => heard.length), 0)
  await app.evaluate((base) => new Promise((done) => {
    const frame = document.createElement('iframe')
    frame.src = base
    frame.addEventListener('load', done)
    document.body.append(frame)
  }), BASE)
  assert.equal(await app.frameLocator('iframe').locator('#app').count(), 0)
  await app.context().close()
})

test('an address below it that leads to nothing says so, and leads back', async () => {
  const at = await page()
  const answer = await at.goto(new URL('no/such/page', BASE).href)
  assert.equal(answer.status(), 404)
  await at.getByRole('heading', { name: 'There is no such page' }).waitFor()
  await accessible(at, 'missing')
  await at.getByRole('link', { name: 'To the console' }).click()
  await at.getByRole('heading', { name: 'Sign in' }).waitFor()
  assert.equal(at.url(), BASE)
})
