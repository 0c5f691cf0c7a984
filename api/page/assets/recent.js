// The latest states, as columns of numbers. What is kept is bounded.

/** own reads a member that may be missing: labels such as "constructor" are not members. */
export function own(object, key) {
  return object && Object.hasOwn(object, key) ? object[key] : undefined;
}

/** numeric is the number that JSON's null stands for: none. */
export function numeric(value) {
  return typeof value === 'number' ? value : NaN;
}

const siteColumns = {
  time: (s) => numeric(s.time_s),
  a: (s) => numeric(s.power_w?.a),
  b: (s) => numeric(s.power_w?.b),
  c: (s) => numeric(s.power_w?.c),
};

const modelColumns = {
  power: (s, label) => numeric(own(s.power_by_model_w, label)),
  itl: (s, label) => numeric(own(s.observed_itl_s_by_model, label)),
  p99: (s, label) => numeric(own(s.itl_percentiles_s_by_model, label)?.p99),
  batch: (s, label) => numeric(own(s.batch_size_by_model, label)),
  achieved: (s, label) => numeric(own(s.prometheus_metrics_by_model, label)?.num_requests_running),
  replicas: (s, label) => numeric(own(s.active_replicas_by_model, label)),
};

/** Recent keeps the latest states of one run. */
export class Recent {
  #capacity;
  #readers = new Map(); // column name → what it takes from a state
  #columns = new Map();
  length = 0;
  latest = null;

  constructor(labels, capacity) {
    this.#capacity = capacity;
    for (const [name, read] of Object.entries(siteColumns)) this.#readers.set(name, read);
    labels.forEach((label, i) => {
      for (const [name, read] of Object.entries(modelColumns)) {
        this.#readers.set(modelColumn(i, name), (state) => read(state, label));
      }
    });
    // Twice the capacity: the older half is dropped at once, which is rare.
    for (const name of this.#readers.keys()) this.#columns.set(name, new Float64Array(2 * capacity));
  }

  /** follows tells whether a state comes after those that are kept. */
  follows(state) {
    return this.latest === null || state.seq > this.latest.seq;
  }

  clear() {
    this.length = 0;
    this.latest = null;
  }

  append(state) {
    if (this.length === 2 * this.#capacity) {
      for (const values of this.#columns.values()) values.copyWithin(0, this.#capacity);
      this.length = this.#capacity;
    }
    for (const [name, read] of this.#readers) this.#columns.get(name)[this.length] = read(state);
    this.length++;
    this.latest = state;
  }

  column(name) {
    return this.#columns.get(name);
  }

  /** firstAtOrAfter is the index of the first state not before timeS. */
  firstAtOrAfter(timeS) {
    const time = this.#columns.get('time');
    let low = 0;
    let high = this.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (time[middle] < timeS) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

/** modelColumn names a column of the model that stands at index i. */
export function modelColumn(i, name) {
  return `${name}.${i}`;
}
