// The dialog that asks for the token.

/** TokenDialog asks for the token and calls onChange when it has another one. */
export class TokenDialog {
  #dialog = document.getElementById('token-dialog');
  #field = document.getElementById('token');
  #reason = document.getElementById('token-reason');
  #usual = this.#reason.textContent;
  #token;

  constructor(token, onChange) {
    this.#token = token;
    const set = (text) => {
      this.#token.value = text;
      this.#dialog.close();
      onChange();
    };
    document.getElementById('token-form').addEventListener('submit', (event) => {
      event.preventDefault();
      const text = this.#field.value.trim();
      if (text) set(text);
    });
    document.getElementById('token-forget').addEventListener('click', () => set(''));
    document.getElementById('token-cancel').addEventListener('click', () => this.#dialog.close());
    // It stays on the screen only while it is being typed.
    this.#dialog.addEventListener('close', () => {
      this.#field.value = '';
    });
  }

  /** ask opens the dialog; the reason is why the agent wants a token. */
  ask(reason = '') {
    this.#reason.textContent = reason || this.#usual;
    document.getElementById('token-forget').hidden = !this.#token.value;
    if (!this.#dialog.open) this.#dialog.showModal();
    this.#field.focus();
  }
}
