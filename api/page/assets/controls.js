// Commands for one model, and what the agent answers to them.

import { Refusal } from './agent.js';
import { number, seconds, signed } from './format.js';
import { own } from './recent.js';

/**
 * Controls sends commands by send(path, body), which adds the lease and asks for
 * a token where one is missing.
 */
export class Controls {
  #root;
  #label;
  #send;
  #choice;
  #delta;
  #answer;
  #chosen = false; // the choice is the operator's, not yet the agent's
  #offered = '';

  constructor(root, label, send) {
    this.#root = root;
    this.#label = label;
    this.#send = send;
    this.#choice = root.querySelector('.batch-choice');
    this.#delta = root.querySelector('.delta');
    this.#answer = root.querySelector('.answer');
    root.querySelector('.set-batch [type=submit]').setAttribute('aria-label', `Apply the batch size to ${label}`);
    root.querySelector('.shift-replicas [type=submit]').setAttribute('aria-label', `Apply the change of replicas to ${label}`);
    this.#choice.setAttribute('aria-label', `batch size of ${label}`);
    this.#delta.setAttribute('aria-label', `replicas to add to ${label}, or with a minus sign to take away`);
    this.#choice.addEventListener('change', () => {
      this.#chosen = true;
    });
    root.querySelector('.less').addEventListener('click', () => this.#step(-1));
    root.querySelector('.more').addEventListener('click', () => this.#step(1));
    root.querySelector('.set-batch').addEventListener('submit', (event) => {
      event.preventDefault();
      this.#run(event.target, () => this.#setBatchSize());
    });
    root.querySelector('.shift-replicas').addEventListener('submit', (event) => {
      event.preventDefault();
      this.#run(event.target, () => this.#shiftReplicas());
    });
  }

  show(visible) {
    this.#root.hidden = !visible;
  }

  /** showModel offers the batch sizes that are feasible, and marks the present one. */
  showModel(model) {
    const sizes = [...model.feasible_batch_sizes];
    if (!sizes.includes(model.batch_size)) sizes.push(model.batch_size);
    sizes.sort((x, y) => x - y);
    const kept = this.#choice.value;
    if (this.#offered !== sizes.join()) {
      this.#offered = sizes.join();
      this.#choice.replaceChildren(...sizes.map((size) => new Option(String(size), String(size))));
      if (this.#chosen) this.#choice.value = kept;
    }
    this.showBatchSize(model.batch_size);
  }

  /** showBatchSize follows the agent, unless the operator is about to choose. */
  showBatchSize(size) {
    const value = String(size);
    if (!this.#chosen && this.#choice.value !== value) this.#choice.value = value;
  }

  #step(by) {
    this.#delta.value = String(Math.trunc(this.#delta.valueAsNumber || 0) + by);
  }

  async #run(form, command) {
    const button = form.querySelector('[type=submit]');
    button.disabled = true;
    this.#say('', 'sending …');
    try {
      this.#say('good', await command());
    } catch (error) {
      this.#say('bad', this.#reason(error));
    } finally {
      button.disabled = false;
    }
  }

  async #setBatchSize() {
    const size = Number(this.#choice.value);
    const answer = await this.#send('v1/batch-sizes', { batch_size_by_model: { [this.#label]: size } });
    this.#chosen = false;
    const lease = own(answer.lease_s_by_model, this.#label);
    const now = own(answer.batch_size_by_model, this.#label) ?? size;
    return `Accepted: batch size ${now} from the step at ${seconds(answer.time_s)}${held(lease)}`;
  }

  async #shiftReplicas() {
    const delta = this.#delta.valueAsNumber;
    if (!Number.isInteger(delta)) throw new Error('give a whole number of replicas, such as \u221210');
    const answer = await this.#send('v1/replica-shifts', { model_label: this.#label, replica_delta: delta });
    this.#delta.value = '0';
    return `Accepted: ${signed(delta)}, ${number(answer.replicas)} replicas from the step at ${seconds(answer.time_s)}${held(answer.lease_s)}`;
  }

  /** #reason prefers what is said of this model to what is said of the command. */
  #reason(error) {
    if (!(error instanceof Refusal)) return error.message;
    const results = Array.isArray(error.body?.results) ? error.body.results : [];
    const mine = results.find((r) => r.model_label === this.#label && r.outcome !== 'accepted');
    if (!mine) return `Refused: ${error.message}`;
    const told = { refused: 'The server refused', unreachable: 'The server is out of reach', unknown: 'Not known whether the server did it' };
    return `${own(told, mine.outcome) ?? mine.outcome}: ${mine.detail ?? error.message}`;
  }

  #say(kind, text) {
    this.#answer.className = `answer ${kind}`;
    this.#answer.textContent = text;
    this.#answer.title = text;
  }
}

function held(leaseS) {
  return typeof leaseS === 'number' ? `, held for ${seconds(leaseS)}` : '';
}
