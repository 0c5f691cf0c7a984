// The list of recent events, in plain words.

import { number, runTime, seconds, signed } from './format.js';
import { own } from './recent.js';

const mostKept = 200;

/** Each topic: a title, whether it calls for attention, and what is told of it. */
const topics = {
  'datacenter.batch_size.updated': {
    title: 'Batch sizes set',
    detail: (data, before) => {
      const sizes = Object.entries(data.batch_size_by_model ?? {});
      const changed = sizes.filter(([label, size]) => own(before, label) !== undefined && own(before, label) !== size);
      if (before && changed.length === 0) return 'as they were';
      if (before) return changed.map(([label, size]) => `${label} ${own(before, label)}\u00a0→\u00a0${size}`).join(', ');
      return sizes.map(([label, size]) => `${label} ${size}`).join(', ');
    },
  },
  'datacenter.replicas.shifted': {
    title: 'Replicas shifted',
    detail: (data) => `${data.model_label} ${signed(data.replica_delta)}, now ${number(data.effective_replicas)}`,
  },
  'datacenter.batch_size.lease_expired': {
    title: 'Batch size not renewed in time',
    attention: true,
    detail: (data) => `${data.model_label} returns to ${data.failsafe_batch_size}`,
  },
  'datacenter.replicas.lease_expired': {
    title: 'Replica shift not renewed in time',
    attention: true,
    detail: (data) => `${data.model_label}: ${signed(data.replica_delta)} taken back`,
  },
  'datacenter.power.stale': {
    title: 'Power readings missing',
    attention: true,
    detail: (data) => `${data.model_label}, for ${seconds(data.age_s)}${data.cause ? `: ${data.cause}` : ''}`,
  },
  'datacenter.power.fresh': { title: 'Power readings back', detail: (data) => String(data.model_label) },
  'datacenter.recording.stopped': {
    title: 'Not recorded any more',
    attention: true,
    detail: (data) => String(data.cause),
  },
  'datacenter.recording.gap': {
    title: 'Seconds not recorded',
    attention: true,
    detail: (data) => `${data.first_second} to ${data.last_second}: ${data.cause}`,
  },
};

/** EventList shows the newest event first. */
export class EventList {
  #list;
  #empty;
  #events = [];
  #skipped = 0;
  #changed = true;

  constructor(list, empty) {
    this.#list = list;
    this.#empty = empty;
  }

  clear() {
    this.#events = [];
    this.#skipped = 0;
    this.#changed = true;
  }

  /** add takes a message of the stream of events: an event, or how many were left out. */
  add(message) {
    if (typeof message.skipped === 'number') {
      this.#skipped += message.skipped;
    } else {
      const before = this.#events.findLast((e) => e.topic === 'datacenter.batch_size.updated')?.data?.batch_size_by_model;
      this.#events.push({ ...message, before });
      if (this.#events.length > mostKept) this.#events.shift();
    }
    this.#changed = true;
  }

  render(dtS) {
    if (!this.#changed) return;
    this.#changed = false;
    const items = this.#events.toReversed().map((event) => itemOf(event, dtS));
    if (this.#skipped > 0) {
      const item = document.createElement('li');
      item.append(element('p', 'event-detail', `${number(this.#skipped)} events were left out: this page read too slowly`));
      items.unshift(item);
    }
    this.#list.replaceChildren(...items);
    this.#empty.hidden = items.length > 0;
  }
}

function itemOf(event, dtS) {
  const topic = own(topics, event.topic);
  const item = document.createElement('li');
  if (topic?.attention) item.className = 'attention';
  const head = element('p', 'event-head');
  const at = new Date(event.wall_time);
  const time = element('time', 'event-time', Number.isNaN(at.getTime()) ? '' : at.toLocaleTimeString('en-GB'));
  if (!Number.isNaN(at.getTime())) time.dateTime = event.wall_time;
  head.append(element('strong', '', topic?.title ?? event.topic), time);
  const detail = topic ? topic.detail(event.data ?? {}, event.before) : JSON.stringify(event.data);
  item.append(head, element('p', 'event-detail', detail));
  item.title = `${event.topic} at ${runTime(event.time_s, dtS)} of the run`;
  item.querySelector('.event-detail').append(element('span', 'event-at', runTime(event.time_s, dtS)));
  return item;
}

function element(name, className, text = '') {
  const e = document.createElement(name);
  if (className) e.className = className;
  e.textContent = text;
  return e;
}
