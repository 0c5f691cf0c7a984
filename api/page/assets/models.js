// A row for each model: its numbers, its plots, its controls.

import { Controls } from './controls.js';
import { milliseconds, nothing, number, power, powerUnit, runTime, seconds, signed, tokensPerSecond } from './format.js';
import { Plot } from './plot.js';
import { modelColumn, numeric, own } from './recent.js';

const count = () => ({ unit: '', factor: 1, decimals: 0 });

/** ModelRow is what is shown of one model; its index is its place in the config. */
export class ModelRow {
  element;
  label;
  controls;
  #plots;
  #itlPlot;
  #model = null;

  constructor(label, index, send) {
    this.label = label;
    this.element = document.getElementById('row-template').content.firstElementChild.cloneNode(true);
    const find = (selector) => this.element.querySelector(selector);
    find('.label').textContent = label;
    this.element.setAttribute('aria-label', label);
    const plot = (selector, what, options) => {
      const canvas = find(selector);
      canvas.setAttribute('aria-label', `${what} of ${label} over the chosen time; the latest value stands above`);
      return new Plot(canvas, options);
    };
    const column = (name) => modelColumn(index, name);
    this.#itlPlot = plot('.plot-itl', 'Inter-token latency', {
      unitFor: () => ({ unit: 'ms', factor: 1e3, decimals: 1 }), fromZero: true, ceiling: 2,
      series: [{ column: column('itl'), color: 'main', name: 'mean' }, { column: column('p99'), color: 'second', name: 'p99', width: 1.2 }],
    });
    this.#plots = [
      plot('.plot-power', 'Power', { unitFor: powerUnit, fromZero: true, series: [{ column: column('power'), color: 'main' }] }),
      this.#itlPlot,
      plot('.plot-batch', 'Batch size', {
        unitFor: count, fromZero: true, whole: true,
        series: [{ column: column('batch'), color: 'main', name: 'set', step: true }, { column: column('achieved'), color: 'second', name: 'running', width: 1.2 }],
      }),
      plot('.plot-replicas', 'Replicas', { unitFor: count, fromZero: true, whole: true, series: [{ column: column('replicas'), color: 'main', step: true }] }),
    ];
    this.controls = new Controls(find('.controls'), label, send);
  }

  /** showModel takes what /v1/models says of the model. */
  showModel(model) {
    this.#model = model;
    this.#itlPlot.limit = numeric(model.itl_deadline_s);
    this.#text('.model-id', model.model_id);
    this.element.querySelector('.model-id').title = model.model_id;
    this.#text('.servers', `${number(model.gpus_per_replica)} GPU${model.gpus_per_replica === 1 ? '' : 's'} a replica`);
    this.controls.showModel(model);
  }

  /** showState takes the latest state. */
  showState(state, dtS) {
    const label = this.label;
    const model = this.#model;
    const staleAge = own(state.stale_by_model, label);
    const stale = staleAge !== undefined || (model?.stale ?? false);
    this.element.classList.toggle('is-stale', stale);
    const badge = this.element.querySelector('.badge.stale');
    badge.hidden = !stale;
    badge.title = 'power readings are missing; the last one is held';
    const age = Number.isFinite(staleAge) ? runTime(staleAge, Math.max(dtS, 0.1)) : '';
    badge.textContent = age ? `stale for ${age}` : 'stale';

    const watts = numeric(own(state.power_by_model_w, label));
    this.#text('.power-now', power(watts));
    const measured = numeric(own(state.measured_power_w_by_model, label));
    const factor = numeric(own(state.augmentation_factor_by_model, label));
    this.#text('.power-measured', Number.isFinite(measured)
      ? `measured ${power(measured)} · factor ${factor.toLocaleString('en', { maximumFractionDigits: 1 })}` : '');

    const mean = numeric(own(state.observed_itl_s_by_model, label));
    const p99 = numeric(own(state.itl_percentiles_s_by_model, label)?.p99);
    const deadline = numeric(model?.itl_deadline_s);
    this.#text('.itl-now', milliseconds(mean));
    this.#text('.tokens-now', tokensPerSecond(numeric(own(state.throughput_tokens_per_s_by_model, label))));
    const late = (Number.isFinite(p99) ? p99 : mean) > deadline;
    this.element.classList.toggle('is-late', late);
    this.element.classList.toggle('is-mean-late', mean > deadline);
    const told = Number.isFinite(p99) ? [`p99 ${milliseconds(p99)}`] : [];
    if (Number.isFinite(deadline)) told.push(`deadline ${milliseconds(deadline)}`);
    this.#text('.itl-deadline', (late ? '⚠ ' : '') + told.join(' · '));

    const batch = numeric(own(state.batch_size_by_model, label));
    this.#text('.batch-now', number(batch));
    this.controls.showBatchSize(batch);
    this.#text('.batch-achieved', this.#achieved(state));
    this.#text('.replicas-now', number(numeric(own(state.active_replicas_by_model, label))));
    this.#text('.replicas-shift', this.#replicas());
  }

  #achieved(state) {
    const parts = [];
    const load = own(state.prometheus_metrics_by_model, this.label);
    if (load && Number.isFinite(load.num_requests_running)) parts.push(`${number(load.num_requests_running)} running`);
    if (load && load.num_requests_waiting > 0) parts.push(`${number(load.num_requests_waiting)} waiting`);
    if (load === null || load?.num_requests_running === null) parts.push('running: not known');
    const lease = numeric(this.#model?.batch_size_lease_s);
    if (Number.isFinite(lease)) parts.push(`held for ${seconds(Math.ceil(lease))}`);
    return parts.join(' · ');
  }

  #replicas() {
    const model = this.#model;
    if (!model) return '';
    const parts = [];
    if (model.replica_shift) parts.push(`shifted ${signed(model.replica_shift)}`);
    parts.push(`${number(model.free_replicas)} more fit`);
    const lease = numeric(model.replica_lease_s);
    if (Number.isFinite(lease)) parts.push(`held for ${seconds(Math.ceil(lease))}`);
    return parts.join(' · ');
  }

  showNothing() {
    for (const selector of ['.power-now', '.itl-now', '.batch-now', '.replicas-now']) this.#text(selector, nothing);
    this.#text('.tokens-now', '');
  }

  get plots() {
    return this.#plots;
  }

  draw(recent, span, colors, agoS) {
    for (const plot of this.#plots) plot.draw(recent, span, colors, agoS);
  }

  #text(selector, text) {
    const e = this.element.querySelector(selector);
    if (e.textContent !== text) e.textContent = text;
  }
}
