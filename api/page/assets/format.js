// How numbers are written: with a unit, in digits that do not jump about.

export const nothing = '–';

/** number writes a value with a fixed number of decimals and a real minus sign. */
export function number(value, decimals = 0) {
  if (!Number.isFinite(value)) return nothing;
  const text = value.toLocaleString('en', { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
  return text.replace('-', '\u2212');
}

/** signed is number with a plus sign above 0. */
export function signed(value) {
  return (value > 0 ? '+' : '') + number(value);
}

/** powerUnit is the unit that suits powers up to watts. */
export function powerUnit(watts) {
  if (watts >= 1e6) return { unit: 'MW', factor: 1e-6, decimals: 3 };
  if (watts >= 1e3) return { unit: 'kW', factor: 1e-3, decimals: 1 };
  return { unit: 'W', factor: 1, decimals: 0 };
}

/** power writes watts, in W, kW or MW. */
export function power(watts) {
  if (!Number.isFinite(watts)) return nothing;
  const { unit, factor, decimals } = powerUnit(Math.abs(watts));
  return `${number(watts * factor, decimals)}\u00a0${unit}`;
}

export function milliseconds(seconds) {
  if (!Number.isFinite(seconds)) return nothing;
  const ms = seconds * 1e3;
  return `${number(ms, ms < 100 ? 1 : 0)}\u00a0ms`;
}

/** tokensPerSecond writes a throughput with three digits, nothing for one that is not known. */
export function tokensPerSecond(value) {
  if (!Number.isFinite(value)) return '';
  const [factor, prefix] = value >= 999.5e3 ? [1e-6, 'M'] : value >= 999.5 ? [1e-3, 'k'] : [1, ''];
  const scaled = value * factor;
  const decimals = prefix === '' || scaled >= 99.95 ? 0 : scaled >= 9.995 ? 1 : 2;
  return `${number(scaled, decimals)}${prefix && `\u00a0${prefix}`}\u00a0tok/s`;
}

/** seconds writes a duration with as many decimals as it has, at most three. */
export function seconds(value) {
  if (!Number.isFinite(value)) return nothing;
  return `${value.toLocaleString('en', { maximumFractionDigits: 3 }).replace('-', '\u2212')}\u00a0s`;
}

/** runTime writes the time since the start of a run, to one decimal, or to the step's. */
export function runTime(value, dtS) {
  if (!Number.isFinite(value)) return nothing;
  const decimals = dtS > 0 ? Math.min(3, Math.max(0, Math.ceil(-Math.log10(dtS) - 1e-9))) : 1;
  return `${number(value, decimals)}\u00a0s`;
}

export function percent(fraction, decimals = 1) {
  return Number.isFinite(fraction) ? `${number(fraction * 100, decimals)}\u00a0%` : nothing;
}
