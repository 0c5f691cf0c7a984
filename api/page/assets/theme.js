// Dark and light: as the system has it, unless the operator chooses.

const key = 'g2g-agent.theme';
const choices = ['auto', 'light', 'dark'];

/** Theme keeps the choice, and knows the colours that the canvases draw with. */
export class Theme {
  #button;
  #onChange;
  #choice = 'auto';

  constructor(button, onChange) {
    this.#button = button;
    this.#onChange = onChange;
    try {
      const stored = localStorage.getItem(key);
      if (choices.includes(stored)) this.#choice = stored;
    } catch {
      // Storage is switched off: the choice lives as long as the page.
    }
    button.addEventListener('click', () => this.#next());
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.#apply());
    this.#apply();
  }

  /** colors are the present ones, by the names that series use. */
  colors() {
    const style = getComputedStyle(document.documentElement);
    const names = ['phase-a', 'phase-b', 'phase-c', 'main', 'second', 'limit', 'muted', 'grid', 'axis', 'panel', 'text'];
    return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`)]));
  }

  #next() {
    this.#choice = choices[(choices.indexOf(this.#choice) + 1) % choices.length];
    try {
      localStorage.setItem(key, this.#choice);
    } catch {
      // As above.
    }
    this.#apply();
  }

  #apply() {
    if (this.#choice === 'auto') delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = this.#choice;
    this.#button.textContent = `Theme: ${this.#choice}`;
    this.#onChange();
  }
}
