// How figures and times are shown: short for the eye, whole in the title.
import { h } from './dom.js'

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 })
const DASH = '–'

export const count = (n) => (n === null || n === undefined ? DASH : whole.format(n))

export function short(n) {
  if (n === null || n === undefined) return DASH
  let size = 0
  let scaled = Number(n)
  while (scaled >= 1000 && size < 4) {
    scaled /= 1000
    size += 1
  }
  const digits = size === 0 ? 0 : scaled >= 100 ? 0 : scaled >= 10 ? 1 : 2
  return String(Number(scaled.toFixed(digits))) + ['', 'K', 'M', 'B', 'T'][size]
}

/** A decimal of the database without the zeros at its end. */
export const exact = (text) => (String(text).includes('.') ? String(text).replace(/\.?0+$/, '') : String(text))

/** Cents, or as many digits as a small sum needs. Unknown is unpriced, never $0. */
export function usd(text, unknown = 'unpriced') {
  if (text === null || text === undefined) return unknown
  const n = Number(text)
  if (n === 0) return '$0'
  if (n >= 10000) return '$' + short(n)
  if (n >= 1) return '$' + n.toFixed(2)
  if (n < 0.000001) return '< $0.000001'
  const said = exact(n.toFixed(2 - Math.floor(Math.log10(n))))
  return '$' + (said.length < 4 ? n.toFixed(2) : said)
}

export function money(text, unknown) {
  return h('data', { value: text ?? 'unknown', title: text === null || text === undefined ? null : `$${exact(text)}` }, usd(text, unknown))
}

export function figure(n) {
  return h('data', { value: n ?? 'unknown', title: n === null || n === undefined ? null : count(n) }, short(n))
}

export function ms(n) {
  if (n === null || n === undefined) return DASH
  const value = Number(n)
  if (value < 1000) return `${Math.round(value)} ms`
  return `${Number((value / 1000).toFixed(value < 10000 ? 2 : 1))} s`
}

export const percent = (share) => (share > 0 && share < 0.001 ? '< 0.1 %' : `${Number((100 * share).toFixed(1))} %`)

const day = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short' })
const dayOfYear = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', year: 'numeric' })
const clock = new Intl.DateTimeFormat('en', { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' })
const seconds = new Intl.DateTimeFormat('en', { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' })
const relative = new Intl.RelativeTimeFormat('en', { numeric: 'auto' })

function when(at, words) {
  const date = new Date(at)
  if (Number.isNaN(date.getTime())) return at === 'infinity' ? 'for good' : DASH
  return h('time', { datetime: date.toISOString(), title: date.toISOString().replace('T', ' ').replace(/\.\d+Z/, ' UTC') }, words(date))
}

const dated = (date) => (date.getFullYear() === new Date().getFullYear() ? day : dayOfYear).format(date)

export const time = (at) => (at ? when(at, (d) => `${dated(d)}, ${clock.format(d)}`) : DASH)
export const precise = (at) => (at ? when(at, (d) => `${dated(d)}, ${seconds.format(d)}`) : DASH)

export function ago(at, never = 'never') {
  if (!at) return never
  return when(at, (d) => {
    const s = (d.getTime() - Date.now()) / 1000
    const size = Math.abs(s)
    if (size < 45) return s > 0 ? 'in a moment' : 'just now'
    if (size < 2700) return relative.format(Math.round(s / 60), 'minute')
    if (size < 79200) return relative.format(Math.round(s / 3600), 'hour')
    if (size < 2592000) return relative.format(Math.round(s / 86400), 'day')
    return dated(d)
  })
}

export const plural = (n, one, many = `${one}s`) => `${count(n)} ${Number(n) === 1 ? one : many}`

export const price = (text) => (text === null || text === undefined ? null : `$${String(Number(Number(text).toPrecision(6))).replace(/(\.\d)$/, '$10')}`)

export function context(n) {
  if (!n) return DASH
  const unit = n % 1024 === 0 && n % 1000 !== 0 ? 1024 : 1000
  if (n >= unit * unit) return `${Number((n / (unit * unit)).toFixed(1))}M`
  return n >= unit ? `${Math.round(n / unit)}K` : String(n)
}
