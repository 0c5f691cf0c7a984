// The live page: joins the connection, the plots and the controls.

import { Agent, Refusal, Token } from './agent.js';
import { Connection } from './connection.js';
import { EventList } from './events.js';
import { nothing, number, percent, power, powerUnit, runTime, seconds } from './format.js';
import { ModelRow } from './models.js';
import { Past } from './past.js';
import { Plot } from './plot.js';
import { Recent, numeric } from './recent.js';
import { Theme } from './theme.js';
import { TokenDialog } from './token-dialog.js';

const windowS = 120;
const mostStates = 6000;
const pollMs = 2000;
const silentMs = 5000;

const byID = (id) => document.getElementById(id);

const phaseNames = { starting: 'starting', stepping: 'stepping', waiting: 'waiting for steps', ended: 'ended' };

class Page {
  #token = new Token();
  #agent = new Agent(this.#token);
  #info = null;
  #labels = null; // what the rows were made for
  #rows = [];
  #recent = new Recent([], 2);
  #known = null; // the latest state, of whatever run
  #early = null; // states that came while the history is being read
  #skipped = 0;
  #heardAt = 0;
  #frame = 0;
  #colors = null;
  #phases = new Plot(byID('plot-phases'), {
    unitFor: powerUnit, leastSpan: 0.05,
    series: ['a', 'b', 'c'].map((phase) => ({ column: phase, color: `phase-${phase}`, name: phase.toUpperCase(), width: 1.75 })),
  });
  #events = new EventList(byID('events'), byID('no-events'));
  #theme = new Theme(byID('theme-button'), () => {
    this.#colors = null;
    this.#redraw();
  });
  #tokenDialog = new TokenDialog(this.#token, () => this.#tokenChanged());
  #connection = new Connection(this.#agent, {
    prepare: () => this.#readAgent(),
    opened: () => this.#readHistory(),
    onState: (message) => this.#takeState(message),
    onEventsOpened: () => this.#events.clear(),
    onEvent: (message) => {
      this.#events.add(message);
      this.#redraw();
    },
    onConnection: (state, detail) => this.#showConnection(state, detail),
  });
  #past = new Past(this.#agent, byID('range'), byID('range-note'), () => this.#wallMs(), () => this.#redraw());
  #pointedAgoS = NaN; // the time that is pointed at, in every plot
  #connected = false;
  #polling = false;

  start() {
    byID('token-button').addEventListener('click', () => this.#tokenDialog.ask());
    byID('control-token-button').addEventListener('click', () => this.#tokenDialog.ask());
    document.addEventListener('pointermove', (event) => this.#point(event));
    document.addEventListener('pointerleave', () => this.#pointAt(NaN));
    new ResizeObserver(() => this.#redraw()).observe(document.body);
    setInterval(() => this.#poll(), pollMs);
    this.#connection.run();
  }

  /** #readAgent learns what the agent runs. */
  async #readAgent() {
    const [info, models] = await Promise.all([this.#agent.get('v1/info'), this.#agent.get('v1/models')]);
    this.#info = info;
    const labels = models.map((m) => m.model_label);
    const capacity = Math.min(mostStates, Math.max(200, Math.ceil(this.#windowS() / info.dt_s) + 1));
    const made = JSON.stringify([labels, capacity]);
    if (this.#labels !== made) {
      this.#labels = made;
      this.#recent = new Recent(labels, capacity);
      this.#rows = labels.map((label, i) => new ModelRow(label, i, (path, body) => this.#command(path, body)));
      byID('rows').replaceChildren(...this.#rows.map((row) => row.element));
      this.#past.show(labels);
    }
    this.#past.allow(info.recording === true);
    models.forEach((model, i) => this.#rows[i].showModel(model));
    this.#showInfo();
    this.#redraw();
  }

  /** #wallMs is the time of day by the agent's clock, as far as it has told. */
  #wallMs() {
    const told = Date.parse(this.#known?.wall_time);
    return Number.isNaN(told) ? Date.now() : told;
  }

  /** #windowS is the time the plots show: two minutes, or 120 steps that are longer than a second. */
  #windowS() {
    return windowS * Math.max(1, this.#info.dt_s);
  }

  /** #readHistory begins the plots anew with what the agent remembers; states that come meanwhile wait. */
  async #readHistory() {
    this.#early = [];
    const n = Math.min(this.#info.history_states, mostStates, Math.ceil(this.#windowS() / this.#info.dt_s) + 1);
    let history = null;
    try {
      history = await this.#agent.get(`v1/history?n=${n}`);
    } catch (error) {
      console.warn('the history could not be read', error);
    }
    const early = this.#early ?? [];
    this.#early = null;
    if (history) this.#recent.clear();
    const latest = history?.at(-1) ?? early[0];
    const known = this.#known;
    if (known && (latest ? latest.seq < known.seq || differentRun(known, latest) : history)) this.#newRun();
    for (const state of [...(history ?? []), ...early]) this.#append(state);
    this.#redraw();
  }

  #takeState(message) {
    this.#heardAt = performance.now();
    if (typeof message.skipped === 'number') {
      this.#skipped += message.skipped;
      return;
    }
    if (typeof message.run_id === 'string') {
      if (this.#early) this.#early = [];
      else this.#newRun();
      return;
    }
    if (this.#early) {
      this.#early.push(message);
      return;
    }
    if (this.#known && message.seq < this.#known.seq) this.#newRun();
    this.#append(message);
    if (this.#info.phase === 'starting') this.#poll();
    this.#redraw();
  }

  #append(state) {
    if (!this.#recent.follows(state)) return;
    this.#recent.append(state);
    this.#known = state;
  }

  #newRun() {
    this.#recent.clear();
    this.#known = null;
    this.#skipped = 0;
    this.#notice(`The agent began a new run; seen at ${new Date().toLocaleTimeString('en-GB')}.`);
  }

  /** #poll reads what is not in the states: the phase, leases, room for replicas. */
  async #poll() {
    if (!this.#connected || document.hidden || this.#polling) return;
    this.#polling = true;
    try {
      await this.#readAgent();
    } catch {
      return; // the connection tells of it
    } finally {
      this.#polling = false;
    }
    this.#past.renew();
    const behind = this.#info.steps - 1 - (this.#recent.latest?.seq ?? -1);
    const silent = performance.now() - this.#heardAt > silentMs;
    if (silent && behind * this.#info.dt_s > silentMs / 1e3) this.#connection.reconnect();
  }

  async #command(path, body) {
    const lease = byID('lease').valueAsNumber;
    try {
      return await this.#agent.post(path, lease > 0 ? { ...body, lease_s: lease } : body);
    } catch (error) {
      if (error instanceof Refusal && error.needsToken) this.#tokenDialog.ask(error.message);
      throw error;
    } finally {
      this.#poll();
    }
  }

  #tokenChanged() {
    this.#showInfo();
    this.#connection.retryNow();
  }

  #notice(text) {
    byID('notice').textContent = text;
    byID('notice').hidden = !text;
  }

  #showConnection(state, detail) {
    this.#connected = state === 'open';
    if (this.#connected) this.#heardAt = performance.now();
    const texts = { connecting: 'connecting', open: 'connected', lost: 'connection lost, trying again', token: 'a token is needed to read' };
    const chip = byID('connection');
    if (chip.dataset.state === state && chip.textContent === texts[state]) return;
    chip.dataset.state = state;
    chip.textContent = texts[state];
    chip.title = detail || '';
    document.body.classList.toggle('is-lost', state === 'lost' || state === 'token');
    if (state === 'token') this.#tokenDialog.ask(detail);
  }

  #showInfo() {
    const info = this.#info;
    if (!info) return;
    byID('site').textContent = info.name;
    document.title = `${info.name} · g2g-agent`;
    const phase = byID('phase');
    phase.textContent = phaseNames[info.phase] ?? info.phase;
    phase.dataset.phase = info.phase;
    const source = byID('source');
    source.hidden = false;
    source.textContent = info.pace === 'lockstep' ? `${info.source}, in lockstep` : info.source;
    byID('dt').textContent = seconds(info.dt_s);
    byID('version').textContent = info.version;
    byID('gpus').textContent = `${number(info.free_gpus)} of ${number(info.total_gpu_capacity)}`;
    const mayCommand = !info.control_needs_token || this.#token.value !== '';
    byID('lease-field').hidden = !mayCommand;
    byID('control-hint').hidden = mayCommand;
    byID('token-button').hidden = !info.control_needs_token && !this.#token.value;
    byID('rows').classList.toggle('with-controls', mayCommand);
    for (const row of this.#rows) row.controls.show(mayCommand);
  }

  #point(event) {
    const plot = [this.#phases, ...this.#rows.flatMap((row) => row.plots)].find((p) => p.canvas === event.target);
    this.#pointAt(plot ? plot.agoAt(event.offsetX) : NaN);
  }

  #pointAt(agoS) {
    if (Object.is(agoS, this.#pointedAgoS)) return;
    this.#pointedAgoS = agoS;
    this.#redraw();
  }

  /** #redraw draws at most once a frame, and not at all in a hidden tab. */
  #redraw() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#draw();
    });
  }

  #draw() {
    this.#colors ??= this.#theme.colors();
    const dtS = this.#info?.dt_s ?? 1;
    const state = this.#recent.latest;
    this.#showPower(state);
    byID('time').textContent = state ? runTime(state.time_s, dtS) : nothing;
    byID('skipped-fact').hidden = this.#skipped === 0;
    byID('skipped').textContent = `${number(this.#skipped)} states`;
    const shown = this.#past.points ?? this.#recent;
    const span = this.#past.span ?? this.#span(dtS);
    this.#phases.draw(shown, span, this.#colors, this.#pointedAgoS);
    for (const row of this.#rows) {
      if (state) row.showState(state, dtS);
      else row.showNothing();
      row.draw(shown, span, this.#colors, this.#pointedAgoS);
    }
    this.#events.render(dtS);
  }

  /** #span is the time in view: it grows in steps until it is the whole window. */
  #span(dtS) {
    const to = this.#recent.latest?.time_s ?? 0;
    const from = this.#recent.length > 0 ? this.#recent.column('time')[0] : 0;
    const whole = windowS * Math.max(1, dtS);
    const length = [whole / 4, whole / 2].find((part) => to - from <= part) ?? whole;
    return { from: to - length, to, gapS: Math.max(1, 1.5 * dtS) };
  }

  #showPower(state) {
    const phases = ['a', 'b', 'c'].map((phase) => numeric(state?.power_w?.[phase]));
    const total = phases[0] + phases[1] + phases[2];
    const mean = total / 3;
    byID('power-total').textContent = power(total);
    ['a', 'b', 'c'].forEach((phase, i) => {
      byID(`power-${phase}`).textContent = power(phases[i]);
    });
    byID('imbalance').textContent = mean > 0 ? percent(Math.max(...phases.map((p) => Math.abs(p - mean))) / mean, 2) : nothing;
    const measured = state?.measured_power_w;
    byID('measured-stat').hidden = !measured;
    if (measured) byID('power-measured').textContent = power(numeric(measured.a) + numeric(measured.b) + numeric(measured.c));
  }
}

/** differentRun tells two runs apart by the time of day they began, where both say it. */
function differentRun(one, other) {
  const began = (s) => Date.parse(s.wall_time) - s.time_s * 1e3;
  return Math.abs(began(one) - began(other)) > 1000;
}

new Page().start();
