// The connection to the agent: two WebSockets that come back after the agent does.

import { Refusal } from './agent.js';

const leastWaitMs = 200;
const mostWaitMs = 2000;
const stableAfterMs = 5000;
const openTimeoutMs = 5000;

/**
 * Connection follows the states and the events. It calls, of its listener:
 *   prepare()            before each attempt; it reads what may have changed
 *   opened()             when states come
 *   onState(object)      each message of the stream
 *   onEventsOpened(), onEvent(object)
 *   onConnection(state, detail)   "connecting", "open", "lost", "token"
 */
export class Connection {
  #agent;
  #listener;
  #wake = () => {};
  #failures = 0;
  #sockets = [];

  constructor(agent, listener) {
    this.#agent = agent;
    this.#listener = listener;
    window.addEventListener('online', () => this.retryNow());
    document.addEventListener('visibilitychange', () => {
      if (!document.hidden) this.#wake();
    });
  }

  /** retryNow ends a wait between two attempts. */
  retryNow() {
    this.#failures = 0;
    this.#wake();
  }

  /** reconnect gives up the present sockets: they may be dead without having said so. */
  reconnect() {
    for (const socket of this.#sockets) socket.close();
  }

  /** run connects, again and again; it never returns. */
  async run() {
    this.#listener.onConnection('connecting');
    for (;;) {
      const begun = Date.now();
      try {
        await this.#listener.prepare();
        await this.#follow();
        this.#listener.onConnection('lost');
      } catch (error) {
        if (error instanceof Refusal && error.needsToken) {
          this.#listener.onConnection('token', error.message);
          await this.#wait(Infinity);
          this.#listener.onConnection('connecting');
          continue;
        }
        this.#listener.onConnection('lost', error instanceof Refusal ? error.message : '');
      }
      if (Date.now() - begun > stableAfterMs) this.#failures = 0;
      const longest = Math.min(mostWaitMs, leastWaitMs * 2 ** this.#failures++);
      await this.#wait(longest * (0.5 + Math.random() / 2));
    }
  }

  #wait(ms) {
    return new Promise((resolve) => {
      const timer = ms === Infinity ? null : setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** #follow returns when a socket has closed. */
  async #follow() {
    const states = this.#open('v1/stream', (m) => this.#listener.onState(m));
    const events = this.#open('v1/events?follow', (m) => this.#listener.onEvent(m));
    this.#sockets = [states.socket, events.socket];
    events.opened.then(() => this.#listener.onEventsOpened(), () => {});
    try {
      await states.opened;
      this.#listener.onConnection('open');
      this.#listener.opened();
      await Promise.race([states.closed, events.closed]);
    } finally {
      this.reconnect();
      this.#sockets = [];
    }
  }

  #open(path, onMessage) {
    const socket = this.#agent.socket(path);
    let current = true; // a socket that was given up may still hold messages
    const closed = new Promise((resolve) => {
      socket.addEventListener('close', () => {
        current = false;
        resolve();
      });
    });
    const opened = new Promise((resolve, reject) => {
      const timer = setTimeout(() => socket.close(), openTimeoutMs);
      socket.addEventListener('open', () => {
        clearTimeout(timer);
        resolve();
      });
      closed.then(() => {
        clearTimeout(timer);
        reject(new Error(`${path} could not be opened`));
      });
    });
    opened.catch(() => {}); // whoever waits for it is told
    socket.addEventListener('message', (message) => {
      if (current && socket.readyState === WebSocket.OPEN) onMessage(JSON.parse(message.data));
    });
    return { socket, opened, closed };
  }
}
