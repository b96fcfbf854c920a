// A browser that is told what to do, and that notes what must not happen: code of strangers that runs, what the
// page's policy had to forbid, errors of the page, and requests to anywhere but the gateway.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { chromium } from 'playwright-core'

export const BASE = process.env.CONSOLE_URL
const axeSource = readFileSync(new URL('./node_modules/axe-core/axe.min.js', import.meta.url), 'utf8')
const browser = await chromium.launch({
  executablePath: process.env.AGGREGATOR_CHROMIUM,
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
})
export const close = () => browser.close()
const PATIENCE = 60000

const faults = []

/** A page of its own, with nothing of other pages in it. */
export async function page({ width = 1280, height = 860, dark = false, also = [] } = {}) {
  const context = await browser.newContext({
    viewport: { width, height },
    colorScheme: dark ? 'dark' : 'light',
    reducedMotion: 'reduce',
    timezoneId: 'UTC',
    locale: 'en-US',
  })
  await context.grantPermissions(['clipboard-read', 'clipboard-write'], { origin: new URL(BASE).origin })
  await context.addInitScript(() => {
    globalThis.violations = []
    addEventListener('securitypolicyviolation', (event) => globalThis.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`))
  })
  const origins = [new URL(BASE).origin, ...also]
  context.on('page', (made) => watch(made, origins))
  return context.newPage()
}

/** Notes what a page does that it must not. `origins`: whom it may ask. */
function watch(made, origins) {
  // A machine that has much else to do is slow.
  made.setDefaultTimeout(PATIENCE)
  made.on('pageerror', (error) => faults.push(`error: ${error.stack}`))
  made.on('dialog', (dialog) => {
    faults.push(`dialog: ${dialog.message()}`)
    dialog.dismiss()
  })
  made.on('console', (message) => {
    // What a request was refused with is shown by the page, and said here as well.
    const isFault = message.type() === 'error' && !message.text().startsWith('Failed to load resource')
    if (isFault || /Content Security Policy|Trusted/i.test(message.text())) faults.push(`console: ${message.text()}`)
  })
  made.on('request', (request) => {
    const url = new URL(request.url())
    if (url.protocol !== 'blob:' && !origins.includes(url.origin)) faults.push(`request: ${request.url()}`)
  })
}

/** Once the page has what it was to fetch, and has drawn it. */
export async function settled(at) {
  await at.waitForFunction(() => document.querySelector('main') && !document.querySelector('[aria-busy]'))
  // And what is drawn a turn later.
  await at.evaluate(() => new Promise((done) => { setTimeout(done, 20) }))
  await at.waitForFunction(() => !document.querySelector('[aria-busy]'))
}

/** To a page of the console, from another one of it: whoever is there already sees it anew. */
export async function go(at, where) {
  const isThere = await at.evaluate((hash) => new Promise((done) => {
    if (location.hash === hash) return done(true)
    // The page's own listener was there first: it has drawn when this one is called.
    addEventListener('hashchange', () => done(false), { once: true })
    location.hash = hash
    return undefined
  }), `#/${where}`)
  if (isThere) await at.reload()
  await settled(at)
}

/** Reads something until it is as wanted: what follows an action is there when the page gets to it. */
export async function becomes(read, wanted, where = '') {
  const until = Date.now() + PATIENCE
  for (;;) {
    const seen = await read()
    const isIt = wanted instanceof RegExp ? wanted.test(seen) : seen === wanted
    if (isIt) return
    if (Date.now() > until) return wanted instanceof RegExp ? assert.match(seen, wanted, where) : assert.equal(seen, wanted, where)
    await new Promise((done) => { setTimeout(done, 50) })
  }
}

/** Nothing ran that is not ours, and nothing was asked for that the policy forbids. */
export async function nothingForeign(at, where) {
  const seen = await at.evaluate(() => ({ violations: globalThis.violations, ran: globalThis.ran ?? null, images: [...document.images].map((one) => one.getAttribute('src')) }))
  assert.deepEqual(seen.violations, [], where)
  assert.equal(seen.ran, null, where)
  assert.ok(seen.images.every((src) => src === 'icon.svg'), `${where}: ${seen.images}`)
  assert.deepEqual(faults, [], where)
}

/** axe-core finds nothing. It is put in by the debugger: the page's policy lets nothing else in. */
export async function accessible(at, where) {
  const session = await at.context().newCDPSession(at)
  await session.send('Runtime.evaluate', { expression: axeSource })
  const { result, exceptionDetails } = await session.send('Runtime.evaluate', {
    expression: `axe.run(document, { resultTypes: ['violations'] }).then((found) => JSON.stringify(found.violations.map((one) => ({ id: one.id, help: one.help, nodes: one.nodes.slice(0, 3).map((node) => node.html) }))))`,
    awaitPromise: true,
    returnByValue: true,
  })
  assert.equal(exceptionDetails, undefined, where)
  assert.deepEqual(JSON.parse(result.value), [], where)
  await session.detach()
}

/** Nothing sticks out of the page to the right. */
export async function fits(at, where) {
  const [has, room] = await at.evaluate(() => [document.documentElement.scrollWidth, innerWidth])
  assert.ok(has <= room, `${where}: ${has} of ${room}`)
}

/** The figure that a page shows short and keeps whole. */
export const whole = (locator) => locator.locator('data').first().getAttribute('value')
