// What is recorded of a long time, in as few points as a plot can show.

import { Recent } from './recent.js';

const points = 300;
const readTimeoutMs = 120_000;
const renewMs = 60_000;

/** asState is a point's values in the members that a state has them in. */
function asState(point, values, pointMs, seq) {
  const byModel = (numbers, member) => Object.fromEntries(Object.entries(numbers).map(([label, value]) => [label, { [member]: value }]));
  return {
    ...values,
    seq,
    time_s: (point.t_ms + pointMs / 2) / 1e3,
    itl_percentiles_s_by_model: byModel(values.itl_p99_s_by_model, 'p99'),
    prometheus_metrics_by_model: byModel(values.achieved_batch_size_by_model, 'num_requests_running'),
  };
}

/** Points are the points of an answer, to be drawn as [Recent] is, with the least and largest values around. */
class Points {
  #mean;
  #min;
  #max;

  constructor(answer, labels) {
    const column = (of) => {
      const recent = new Recent(labels, Math.max(1, answer.points.length));
      answer.points.forEach((point, i) => recent.append(asState(point, point[of], answer.point_ms, i)));
      return recent;
    };
    [this.#mean, this.#min, this.#max] = ['mean', 'min', 'max'].map(column);
  }

  get length() {
    return this.#mean.length;
  }

  get latest() {
    return this.#mean.latest;
  }

  column(name) {
    return this.#mean.column(name);
  }

  low(name) {
    return this.#min.column(name);
  }

  high(name) {
    return this.#max.column(name);
  }

  firstAtOrAfter(timeS) {
    return this.#mean.firstAtOrAfter(timeS);
  }
}

/** Past looks back over the recording, as far as the list of ranges says; it is off where nothing is recorded. */
export class Past {
  points = null; // null: the page shows the latest states
  span = null;
  #agent;
  #select;
  #note;
  #nowMs;
  #changed;
  #labels = [];
  #reading = null;
  #renewAt = Infinity;

  constructor(agent, select, note, nowMs, changed) {
    this.#nowMs = nowMs;
    this.#agent = agent;
    this.#select = select;
    this.#note = note;
    this.#changed = changed;
    select.addEventListener('change', () => this.#read());
  }

  /** allow says whether there is a recording. */
  allow(recorded) {
    this.#select.disabled = !recorded;
    this.#select.title = recorded ? 'how far back the plots look: all but the latest states come from the recording'
      : 'nothing is recorded: start the agent with --record DIR to look further back';
    if (!recorded && this.#select.value !== 'latest') {
      this.#select.value = 'latest';
      this.#read();
    }
  }

  /** show takes the labels of the rows there are. */
  show(labels) {
    this.#labels = labels;
    if (this.points) this.#read();
  }

  /** renew reads the recording again if that is a while ago. */
  renew() {
    if (performance.now() > this.#renewAt) this.#read();
  }

  /** #read reads what was chosen; an answer to an earlier choice is dropped. */
  async #read() {
    const chosen = this.#select.value;
    const reading = {};
    this.#reading = reading;
    this.#renewAt = Infinity;
    if (chosen === 'latest') {
      this.points = this.span = null;
      this.#tell('');
      return;
    }
    if (!this.points) this.#tell('reading the recording');
    const began = performance.now();
    const from = chosen === 'all' ? '' : `from_ms=${Math.round(this.#nowMs() - 1e3 * Number(chosen))}&`;
    try {
      const answer = await this.#agent.get(`v1/recording/states?${from}points=${points}`, readTimeoutMs);
      if (this.#reading !== reading) return;
      this.points = new Points(answer, this.#labels);
      this.span = spanOf(this.points, answer.point_ms / 1e3, chosen === 'all' ? NaN : Number(chosen));
      this.#tell(noteOf(answer));
    } catch (error) {
      if (this.#reading !== reading) return;
      this.#tell(`the recording could not be read: ${error.message}`);
    }
    // Reading takes the agent some time: it is not asked for it all the time.
    this.#renewAt = performance.now() + Math.max(renewMs, 20 * (performance.now() - began));
  }

  #tell(text) {
    this.#note.textContent = text;
    this.#note.hidden = !text;
    this.#changed();
  }
}

function noteOf(answer) {
  if (answer.points.length === 0) return 'nothing was recorded in that time';
  if (answer.damages > 0) return `${answer.damages} parts of the recording cannot be read`;
  return '';
}

/** spanOf is the time in view: up to the last point, NaN seconds back for all there is. */
function spanOf(all, pointS, lengthS) {
  const times = all.column('time');
  const to = all.length > 0 ? times[all.length - 1] + pointS / 2 : Date.now() / 1e3;
  const from = Number.isNaN(lengthS) && all.length > 0 ? times[0] - pointS / 2 : to - (lengthS || 600);
  const days = to - from > 86_400;
  const clock = (timeS) => new Date(timeS * 1e3).toLocaleString('en-GB', {
    ...(days && { day: 'numeric', month: 'short' }), hour: '2-digit', minute: '2-digit', ...(to - from < 900 && { second: '2-digit' }),
  });
  return { from, to, gapS: 2.5 * pointS, clock };
}
