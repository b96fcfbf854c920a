// Bars over time.
import { h } from './dom.js'
import { short } from './format.js'

const LEFT = 52
const TOP = 12
const HEIGHT = 176

function axisEnd(most) {
  if (!(most > 0)) return 1
  const power = 10 ** Math.floor(Math.log10(most))
  return [1, 2, 4, 8, 10].map((step) => step * power).find((end) => end >= most * 0.9999999)
}

/** rows: { label, tick, value, title }; `said`: how a figure of the axis is written. */
export function bars(name, rows, said = short) {
  const width = matchMedia('(max-width: 640px)').matches ? 380 : 920
  const end = axisEnd(Math.max(...rows.map((row) => row.value)))
  const room = (width - LEFT) / rows.length
  const y = (value) => TOP + HEIGHT * (1 - value / end)
  return h('svg.chart', { viewBox: `0 0 ${width} ${TOP + HEIGHT + 30}`, role: 'img', 'aria-label': `${name}; the figures are in the table below` },
    h('g.grid', {}, [0, 1, 2, 3, 4].map((part) => [
      h('line', { x1: LEFT, x2: width, y1: y(end * part / 4), y2: y(end * part / 4) }),
      h('text', { class: 'y', x: LEFT - 10, y: y(end * part / 4) + 4 }, said(end * part / 4)),
    ])),
    rows.map((row, at) => {
      const height = Math.max(HEIGHT * row.value / end, row.value > 0 ? 2 : 0)
      const wide = Math.min(room * 0.68, 44)
      const x = LEFT + room * at
      return h('g.bar', {}, h('title', {}, row.title),
        h('rect', { class: 'room', x, y: TOP, width: room, height: HEIGHT }),
        h('rect', { class: 'value', x: x + (room - wide) / 2, y: TOP + HEIGHT - height, width: wide, height, rx: Math.min(3, height / 2) }),
        row.tick && h('text', { class: `x${row.tick === 2 ? ' extra' : ''}`, x: x + room / 2, y: TOP + HEIGHT + 22 }, row.label))
    }))
}
