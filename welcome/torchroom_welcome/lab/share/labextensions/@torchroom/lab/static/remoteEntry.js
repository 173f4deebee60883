/* Warns in JupyterLab 4 that this server will stop: a notification with a countdown and a
 * button for more time, and the countdown in the status bar.
 *
 * Written by hand, with no build: JupyterLab loads this file, gives it the packages that
 * it shares (`init`), and asks for a plugin (`get`). What it shares is used as it is, so
 * this works with every JupyterLab 4 that has these packages' few names used here.
 */
(() => {
  'use strict';

  const PLUGIN = '@torchroom/lab:warnings';
  const MICRO = 1000000;
  const RETRY_S = 30;
  const SHOWN_AGAIN_S = [300, 120, 60]; // a closed warning comes again at these
  const SECONDS_BELOW_S = 120; // from here on people read seconds
  const STEP_S = 10; // of a notification: each change of it is read aloud
  const CONFIRMED_MS = 15000;

  // ------------------------------------------------------------------ words (pure)

  const count = (n, noun) => `${n} ${noun}${n === 1 ? '' : 's'}`;

  const tokens = microtokens => {
    const whole = Math.floor(microtokens / MICRO).toLocaleString('en-US');
    const part = String(microtokens % MICRO).padStart(6, '0').replace(/0+$/, '');
    const amount = part ? `${whole}.${part}` : whole;
    return `${amount} token${amount === '1' ? '' : 's'}`;
  };

  const duration = seconds => {
    if (seconds < SECONDS_BELOW_S) return count(seconds, 'second');
    const minutes = Math.floor(seconds / 60);
    if (minutes < 120) return count(minutes, 'minute');
    return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  };

  const clock = (seconds, now) =>
    new Date(now + seconds * 1000).toLocaleTimeString([], {
      hour: '2-digit',
      minute: '2-digit'
    });

  const short = seconds => {
    if (seconds >= 3600) return duration(seconds);
    const two = n => String(n).padStart(2, '0');
    return `${Math.floor(seconds / 60)}:${two(seconds % 60)}`;
  };

  const rounded = seconds =>
    seconds < SECONDS_BELOW_S ? Math.ceil(seconds / STEP_S) * STEP_S : seconds;

  /** Why, without what the rest says of when: that was true when it was written. */
  const cause = sentence => sentence.split('. ')[0].replace(/\.?$/, '.');

  // JupyterLab cuts what is longer than 140 characters, so the end comes first.
  const message = (notice, left, now) => {
    if (left === null) return notice.sentence;
    const end =
      left > 0
        ? `This server stops in ${duration(rounded(left))} (${clock(left, now)}).`
        : 'This server is being stopped.';
    return `${end} ${cause(notice.sentence)}`;
  };

  const label = notice => {
    const cost = notice.microtokens ? tokens(notice.microtokens) : 'free';
    const rest = `${notice.n_extensions_left} left`;
    return `Extend ${duration(notice.extend_by_s)} (${cost}, ${rest})`;
  };

  const stage = left =>
    left === null ? 0 : SHOWN_AGAIN_S.filter(mark => left <= mark).length;

  // ------------------------------------------------------------------- the warning

  class Warnings {
    constructor(app, lab) {
      this.lab = lab; // Notification, ServerConnection, URLExt
      this.settings = app.serviceManager.serverSettings;
      this.notice = null;
      this.endsAt = null; // of performance.now(): nobody's clock has to be right
      this.everyS = RETRY_S;
      this.hiddenEveryS = null;
      this.id = null; // of the notification
      this.shown = ''; // what it says
      this.stage = 0;
      this.isBusy = false; // an extension is being asked for
      this.refusal = ''; // why the last one was not taken
      this.refusedUntil = 0; // so long it is shown
      this.calls = 0;
      this.poll = 0;
      this.ticking = 0;
      this.changed = () => undefined; // the status bar's
      document.addEventListener('visibilitychange', () => this.seen());
      this.look();
    }

    left() {
      if (this.endsAt === null) return null;
      return Math.max(0, Math.round((this.endsAt - performance.now()) / 1000));
    }

    // -- asking

    async ask(path, init) {
      const { ServerConnection, URLExt } = this.lab;
      const url = URLExt.join(this.settings.baseUrl, 'torchroom', path);
      const reply = await ServerConnection.makeRequest(url, init, this.settings);
      if (reply.status === 404) return { status: 404, body: {} };
      return { status: reply.status, body: await reply.json() };
    }

    async look() {
      clearTimeout(this.poll);
      const call = ++this.calls;
      let found = null;
      try {
        found = await this.ask('notice', {});
      } catch {
        found = { status: 0, body: {} }; // JupyterLab says itself that it is alone
      }
      if (call !== this.calls) return; // an extension, or a later look, came between
      if (found.status === 404) return; // a server without the other half
      if (found.status === 200) {
        this.everyS = found.body.every_s;
        this.hiddenEveryS = found.body.hidden_every_s;
        if (!this.isBusy) this.take(found.body.notice);
      }
      this.plan();
    }

    plan() {
      clearTimeout(this.poll);
      const s = document.hidden ? this.hiddenEveryS : this.everyS;
      if (s !== null) this.poll = setTimeout(() => this.look(), s * 1000);
    }

    seen() {
      if (this.everyS === null) return;
      if (document.hidden) this.plan();
      else this.look();
      this.title();
    }

    // -- showing

    take(notice) {
      const before = this.notice;
      this.notice = notice;
      if (notice === null) {
        this.endsAt = null;
        this.clear();
        return;
      }
      const left = notice.seconds_left;
      this.endsAt = left === null ? null : performance.now() + left * 1000;
      if (before === null || before.lease !== notice.lease) {
        this.stage = -1;
        this.refusedUntil = 0;
      }
      this.show();
      this.tick();
    }

    tick() {
      clearTimeout(this.ticking);
      if (this.notice === null) return;
      if (!this.isBusy) this.show();
      this.changed();
      this.title();
      this.ticking = setTimeout(() => this.tick(), 1000);
    }

    show() {
      const left = this.left();
      const now = stage(left);
      const plain = message(this.notice, left, Date.now());
      const isRefused = performance.now() < this.refusedUntil;
      const said = isRefused ? `Not extended: ${this.refusal}` : plain;
      // A closed one stays closed until the next stage; an open one changes in place.
      const isOpen = this.id !== null && document.getElementById(this.id) !== null;
      const isDue = now > this.stage;
      if (said === this.shown && !isDue) return;
      if (!isDue && !isOpen) return;
      this.stage = now;
      this.say(said, isRefused ? 'error' : 'warning', this.actions(left));
    }

    actions(left) {
      if (this.notice.next_extension === null || left === 0) return [];
      return [
        {
          label: label(this.notice),
          caption: this.notice.sentence,
          displayType: 'accent',
          callback: event => {
            event.preventDefault(); // it stays open and says what came of it
            void this.extend();
          }
        }
      ];
    }

    say(said, type, actions, autoClose = false) {
      const { Notification } = this.lab;
      this.shown = said;
      const options = { autoClose, actions };
      if (this.id !== null && Notification.manager.has(this.id)) {
        Notification.update({ id: this.id, message: said, type, ...options });
      } else {
        this.id = Notification.emit(said, type, options);
      }
    }

    clear() {
      if (this.id !== null && this.shown) this.lab.Notification.dismiss(this.id);
      this.id = null;
      this.shown = '';
      this.stage = 0;
      this.changed();
      this.title();
    }

    title() {
      const plain = document.title.replace(/^⚠ [^–]*– /, '');
      const left = this.left();
      const isTold = this.notice !== null && document.hidden && left !== null;
      const title = isTold ? `⚠ stops in ${short(left)} – ${plain}` : plain;
      if (title !== document.title) document.title = title;
    }

    // -- more time

    async extend() {
      if (this.isBusy || this.notice === null) return;
      const asked = this.notice;
      this.isBusy = true;
      this.refusedUntil = 0;
      this.calls++; // what a look finds meanwhile is old
      this.say('Extending …', 'in-progress', []);
      let found = null;
      try {
        found = await this.ask('extension', {
          method: 'POST',
          body: JSON.stringify({
            lease: asked.lease,
            extension: asked.next_extension
          })
        });
      } catch {
        found = { status: 0, body: {} };
      }
      this.isBusy = false;
      if (found.status === 200 && found.body.notice) this.confirm(found.body);
      else this.refuse(found.body.message);
    }

    confirm(body) {
      const notice = body.notice;
      this.notice = notice;
      const left = notice.seconds_left;
      this.endsAt = left === null ? null : performance.now() + left * 1000;
      this.stage = stage(left);
      const parts = [`Extended until ${clock(left, Date.now())}.`];
      if (body.microtokens_left !== null) {
        parts.push(`You have ${tokens(body.microtokens_left)} left.`);
      }
      this.say(parts.join(' '), 'success', [], CONFIRMED_MS);
      this.id = null; // what it says goes by itself; the next warning is another one
      this.tick();
      this.plan();
    }

    refuse(why) {
      this.refusal = why || 'this did not work. Try it again.';
      this.refusedUntil = performance.now() + CONFIRMED_MS;
      this.stage = -1;
      this.show();
      this.look(); // it may have been refused because something changed
    }
  }

  // ---------------------------------------------------------------- the status bar

  const addStatus = (statusBar, widgets, warnings) => {
    const node = document.createElement('div');
    node.className = 'jp-StatusBar-TextItem torchroom-Countdown';
    node.setAttribute('role', 'timer');
    node.setAttribute('aria-live', 'off'); // the notification is what is read aloud
    node.style.display = 'none';
    const item = new widgets.Widget({ node });
    item.addClass('jp-StatusBar-HoverItem');
    statusBar.registerStatusItem(PLUGIN, { item, align: 'left', rank: 1000 });
    warnings.changed = () => {
      const left = warnings.left();
      const isTold = warnings.notice !== null && left !== null;
      node.style.display = isTold ? '' : 'none';
      node.textContent = isTold ? `This server stops in ${short(left)}` : '';
      node.title = isTold ? warnings.notice.sentence : '';
    };
    warnings.changed();
  };

  // --------------------------------------------------------- what JupyterLab asks for

  let shared = null;

  /** Load a package as JupyterLab has it: the version in use, else the newest. */
  const load = async name => {
    const versions = shared[name] || {};
    const newer = (a, b) => a.localeCompare(b, undefined, { numeric: true });
    const keys = Object.keys(versions).sort(newer);
    const key = keys.find(each => versions[each].loaded) || keys[keys.length - 1];
    if (key === undefined) throw new Error(`JupyterLab does not share ${name}`);
    return (await versions[key].get())();
  };

  const plugin = async () => {
    const statusbar = await load('@jupyterlab/statusbar').catch(() => null);
    return {
      id: PLUGIN,
      description: 'Warns that this server will stop, and takes more time for it.',
      autoStart: true,
      optional: statusbar ? [statusbar.IStatusBar] : [],
      activate: async (app, statusBar) => {
        const names = ['apputils', 'services', 'coreutils'];
        const found = names.map(name => load(`@jupyterlab/${name}`));
        const [apputils, services, coreutils] = await Promise.all(found);
        const lab = {
          Notification: apputils.Notification,
          ServerConnection: services.ServerConnection,
          URLExt: coreutils.URLExt
        };
        const warnings = new Warnings(app, lab);
        if (statusBar) addStatus(statusBar, await load('@lumino/widgets'), warnings);
      }
    };
  };

  const container = {
    init: scope => {
      shared = scope;
    },
    get: async module => {
      if (module !== './extension') throw new Error(`there is no ${module} here`);
      const found = await plugin();
      return () => ({ __esModule: true, default: found });
    }
  };

  window._JUPYTERLAB = window._JUPYTERLAB || {};
  window._JUPYTERLAB['@torchroom/lab'] = container;
})();
