// Every page, with much in it and with nothing, light and dark, on a desk and on a phone: axe finds nothing, nothing
// sticks out, nothing foreign runs. The pictures are for people to look at.
import { mkdirSync } from 'node:fs'
import { after, test } from 'node:test'
import { accessible, close, fits, go, nothingForeign, page, settled } from './browser.mjs'

const { CONSOLE_PICTURES } = process.env
const PAGES = ['providers', 'models', 'playground', 'usage?range=month', 'requests', 'jobs', 'keys', 'limits']
const LOOKS = { light: {}, dark: { dark: true }, phone: { width: 390, height: 844 }, 'phone-dark': { width: 320, height: 640, dark: true } }
after(close)
mkdirSync(CONSOLE_PICTURES, { recursive: true })

/** Links with access tokens: a code of console_url() is good for a minute, and this takes longer. */
const links = JSON.parse(process.env.CONSOLE_LINKS)
for (const who of ['user', 'administrator', 'newcomer']) {
  for (const [look, options] of Object.entries(LOOKS)) {
    test(`${who}, ${look}`, async () => {
      const at = await page(options)
      const picture = (name) => at.screenshot({ path: `${CONSOLE_PICTURES}/${who}-${name}-${look}.png` })
      await at.goto('about:blank')
      await at.goto(links[who].shift())
      await accessible(at, 'asked')
      await at.getByRole('button', { name: 'Sign in' }).click()
      await at.waitForSelector('.frame')
      await settled(at)
      for (const where of PAGES) {
        await go(at, where)
        const name = where.split('?')[0]
        await picture(name)
        await accessible(at, `${who} ${name} ${look}`)
        await fits(at, `${who} ${name} ${look}`)
        await nothingForeign(at, `${who} ${name} ${look}`)
      }
      await at.getByRole('button', { name: 'Sign out' }).or(at.getByRole('button', { name: 'Menu' })).first().click()
      if (look.startsWith('phone')) {
        await accessible(at, 'menu')
        await at.getByRole('button', { name: 'Sign out' }).click()
      }
      await at.getByRole('heading', { name: 'Sign in' }).waitFor()
      if (who === 'user') await picture('sign-in')
      await at.context().close()
    })
  }
}
