// Plots of columns over time, on a canvas.

/** niceTicks returns round numbers from at or below low to at or above high. */
export function niceTicks(low, high, most) {
  const rough = (high - low) / Math.max(1, most);
  const magnitude = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * magnitude).find((s) => s >= rough * (1 - 1e-9));
  const first = Math.floor(low / step + 1e-9);
  const last = Math.ceil(high / step - 1e-9);
  const ticks = [];
  for (let i = first; i <= last; i++) ticks.push(i * step);
  let decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  if (Math.abs(step * 10 ** decimals - Math.round(step * 10 ** decimals)) > 1e-6) decimals++;
  return { ticks, decimals };
}

const font = '11px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';
const margin = { top: 8, right: 2, bottom: 18 };

/**
 * Plot draws series over a span of time.
 *   series: [{column, color, name, step, width}], the first is drawn last, on top
 *   unitFor(largest) → {unit, factor, decimals}: what the axis, and values to so
 *     many decimals, are written in
 *   fromZero: the axis begins at 0
 *   leastSpan: the axis spans at least this part of the largest value
 *   whole: ticks are whole numbers
 *   ceiling: the axis ends at so many times the limit; what lies above is told
 *     in words, for a rare peak must not flatten all the rest
 *
 * The limit is a horizontal line that is always in view, NaN for none.
 */
export class Plot {
  #canvas;
  #options;
  #limit = NaN;
  #area = null; // of the latest drawing

  constructor(canvas, options) {
    this.#canvas = canvas;
    this.#options = options;
  }

  set limit(value) {
    this.#limit = value;
  }

  get canvas() {
    return this.#canvas;
  }

  /** agoAt is how long before the latest state a place on the canvas is, in seconds; NaN beside the plot. */
  agoAt(x) {
    const area = this.#area;
    if (!area || x < area.left || x > area.right) return NaN;
    return ((area.right - x) / (area.right - area.left)) * area.length;
  }

  /** draw draws the states; agoS is what time is pointed at, NaN for none. */
  draw(recent, span, colors, agoS) {
    const canvas = this.#canvas;
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    if (width < 60 || height < 30) return;
    const ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const c = canvas.getContext('2d');
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, width, height);
    c.font = font;
    c.lineJoin = 'round';

    const first = Math.max(0, recent.firstAtOrAfter(span.from) - 1);
    const range = this.#range(recent, first);
    canvas.dataset.seq = recent.latest ? recent.latest.seq : '';
    canvas.dataset.empty = range === null;
    delete canvas.dataset.pointed;
    this.#area = null;
    if (range === null) {
      c.fillStyle = colors.muted;
      c.textAlign = 'center';
      c.textBaseline = 'middle';
      c.fillText('no values', width / 2, height / 2);
      return;
    }
    const scale = this.#options.unitFor(Math.max(Math.abs(range.low), Math.abs(range.high)));
    const { unit, factor } = scale;
    const plotHeight = height - margin.top - margin.bottom;
    const most = Math.max(2, Math.floor(plotHeight / 28));
    let { ticks, decimals } = niceTicks(range.low * factor, range.high * factor, most);
    if (this.#options.whole && decimals > 0) {
      ticks = ticks.filter((tick) => Math.abs(tick - Math.round(tick)) < 1e-9);
      decimals = 0;
    }
    const names = ticks.map((tick) => tick.toFixed(decimals).replace('-', '\u2212'));
    names[names.length - 1] += unit ? ` ${unit}` : '';
    // Plots above each other begin at the same place, unless a number is very long.
    const left = Math.max(46, Math.ceil(Math.max(...names.map((name) => c.measureText(name).width))) + 8);
    const low = ticks[0] / factor;
    const high = ticks[ticks.length - 1] / factor;
    const area = {
      left,
      right: width - margin.right,
      top: margin.top,
      bottom: height - margin.bottom,
      x: (t) => left + ((t - span.from) / (span.to - span.from)) * (width - margin.right - left),
      y: (v) => height - margin.bottom - ((v - low) / (high - low)) * plotHeight,
    };
    area.length = span.to - span.from;
    this.#area = area;

    this.#drawAxes(c, area, ticks.map((tick) => tick / factor), names, span, colors);
    c.save();
    c.beginPath();
    c.rect(area.left, area.top - 2, area.right - area.left + 2, area.bottom - area.top + 3);
    c.clip();
    if (Number.isFinite(this.#limit)) {
      c.strokeStyle = colors.limit;
      c.lineWidth = 1.5;
      c.setLineDash([6, 4]);
      c.beginPath();
      c.moveTo(area.left, area.y(this.#limit));
      c.lineTo(area.right, area.y(this.#limit));
      c.stroke();
      c.setLineDash([]);
    }
    for (const series of this.#options.series.toReversed()) this.#drawSeries(c, area, series, recent, first, span, colors);
    c.restore();
    const pointed = recent.firstAtOrAfter(span.to - agoS);
    if (agoS <= area.length && pointed < recent.length) {
      this.#drawPointed(c, area, recent, pointed, scale, span, colors);
    } else if (range.peak > high) {
      const text = `\u2191 to ${Math.round(range.peak * factor).toLocaleString('en')} ${unit}`;
      const textWidth = c.measureText(text).width + 6;
      c.fillStyle = colors.panel;
      c.fillRect(area.right - textWidth, area.top - 2, textWidth, 14);
      c.fillStyle = colors.muted;
      c.textAlign = 'right';
      c.textBaseline = 'middle';
      c.fillText(text, area.right - 2, area.top + 5);
    }
  }

  /** #drawPointed tells the values at the time that is pointed at. */
  #drawPointed(c, area, recent, i, scale, span, colors) {
    const time = recent.column('time')[i];
    const x = area.x(time);
    if (!(x >= area.left)) return; // between two states, the earlier out of view
    c.strokeStyle = colors.muted;
    c.lineWidth = 1;
    c.beginPath();
    c.moveTo(Math.round(x) + 0.5, area.top);
    c.lineTo(Math.round(x) + 0.5, area.bottom);
    c.stroke();
    const parts = this.#options.series.map(({ column, name }) => {
      const value = recent.column(column)?.[i] ?? NaN;
      if (Number.isNaN(value)) return '';
      return `${name ? `${name} ` : ''}${(value * scale.factor).toLocaleString('en', { minimumFractionDigits: scale.decimals, maximumFractionDigits: scale.decimals })}`;
    });
    const ago = span.clock?.(time) ?? `\u2212${(span.to - time).toFixed(1)} s`;
    const text = `${parts.filter(Boolean).join(' · ') || 'no value'} ${scale.unit}`.trim() + (area.right - area.left > 420 ? `, ${ago}` : '');
    const width = c.measureText(text).width + 10;
    const left = Math.min(Math.max(area.left, x - width / 2), area.right - width);
    c.fillStyle = colors.panel;
    c.fillRect(left, area.top - 6, width, 17);
    c.strokeRect(Math.round(left) + 0.5, area.top - 5.5, Math.round(width), 16);
    c.fillStyle = colors.text;
    c.textAlign = 'left';
    c.textBaseline = 'middle';
    c.fillText(text, left + 5, area.top + 3);
    this.#canvas.dataset.pointed = text;
  }

  /** #range is the span of the values in view, null if there are none. */
  #range(recent, first) {
    let low = Infinity;
    let high = -Infinity;
    for (const { column } of this.#options.series) {
      const values = recent.column(column);
      if (!values) continue;
      const lows = recent.low?.(column) ?? values;
      const highs = recent.high?.(column) ?? values;
      for (let i = first; i < recent.length; i++) {
        if (lows[i] < low) low = lows[i];
        if (highs[i] > high) high = highs[i];
      }
    }
    if (low > high) return null;
    const peak = high;
    const ceiling = this.#limit * (this.#options.ceiling ?? NaN);
    if (high > ceiling) high = ceiling;
    if (Number.isFinite(this.#limit)) {
      low = Math.min(low, this.#limit);
      high = Math.max(high, this.#limit * 1.05);
    }
    if (this.#options.fromZero) {
      low = Math.min(low, 0);
      high = Math.max(high, 0);
    }
    const least = Math.max((this.#options.leastSpan ?? 0) * Math.max(Math.abs(low), Math.abs(high)), this.#options.whole ? 1 : 1e-9);
    if (high - low < least) {
      const middle = (high + low) / 2;
      high = this.#options.fromZero ? Math.max(high, least) : middle + least / 2;
      low = this.#options.fromZero ? low : middle - least / 2;
    }
    return { low, high, peak };
  }

  #drawAxes(c, area, values, names, span, colors) {
    c.lineWidth = 1;
    c.fillStyle = colors.muted;
    c.textBaseline = 'middle';
    c.textAlign = 'right';
    values.forEach((value, i) => {
      const y = Math.round(area.y(value)) + 0.5;
      c.strokeStyle = i === 0 ? colors.axis : colors.grid;
      c.beginPath();
      c.moveTo(area.left, y);
      c.lineTo(area.right, y);
      c.stroke();
      c.fillText(names[i], area.left - 6, Math.max(y, 6));
    });
    c.textBaseline = 'alphabetic';
    const length = span.to - span.from;
    const parts = area.right - area.left > 420 ? 4 : 2;
    for (let i = 0; i <= parts; i++) {
      const x = area.left + ((area.right - area.left) * i) / parts;
      c.textAlign = i === 0 ? 'left' : i === parts ? 'right' : 'center';
      const ago = length * (1 - i / parts);
      c.fillText(span.clock?.(span.to - ago) ?? (ago === 0 ? 'latest' : `\u2212${ago} s`), x, area.bottom + 14);
    }
  }

  /** #drawBand draws, for each point, the span from its least to its largest value. */
  #drawBand(c, area, series, recent, first, span) {
    const time = recent.column('time');
    const lows = recent.low(series.column);
    const highs = recent.high(series.column);
    const pointWidth = (area.x(span.from + span.gapS / 2.5) - area.x(span.from));
    c.save();
    c.globalAlpha = 0.35;
    c.lineWidth = Math.max(1, pointWidth);
    c.beginPath();
    for (let i = first; i < recent.length; i++) {
      if (!(highs[i] > lows[i])) continue;
      c.moveTo(area.x(time[i]), area.y(lows[i]));
      c.lineTo(area.x(time[i]), area.y(highs[i]));
    }
    c.stroke();
    c.restore();
  }

  #drawSeries(c, area, series, recent, first, span, colors) {
    const values = recent.column(series.column);
    if (!values) return;
    const time = recent.column('time');
    c.strokeStyle = colors[series.color];
    if (recent.low) this.#drawBand(c, area, series, recent, first, span);
    c.lineWidth = series.width ?? 1.5;
    c.beginPath();
    let drawing = false;
    let before = NaN;
    for (let i = first; i < recent.length; i++) {
      const v = values[i];
      if (Number.isNaN(v)) {
        drawing = false;
        continue;
      }
      const x = area.x(time[i]);
      const y = area.y(v);
      if (!drawing || time[i] - time[i - 1] > span.gapS) {
        c.moveTo(x, y);
        // A value on its own, between gaps, is a dot.
        if (!(i + 1 < recent.length) || Number.isNaN(values[i + 1])) c.lineTo(x + 1, y);
      } else {
        if (series.step) c.lineTo(x, before);
        c.lineTo(x, y);
      }
      drawing = true;
      before = y;
    }
    c.stroke();
  }
}
