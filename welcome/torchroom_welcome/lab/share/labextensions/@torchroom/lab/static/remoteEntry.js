/* Warns in JupyterLab 4 that this server will stop: a notification with a countdown and a
 * button for more time, and the countdown in the status bar. Says when it has stopped.
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
  const LAST_S = 5; // so often it is asked whether the server stops when its time is over
  const JITTER_MS = 3000; // by which answers about the same end differ
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

  const clock = at =>
    new Date(at).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });

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
  const message = (notice, left, endsAt, isStopped) => {
    const why = cause(notice.sentence);
    if (isStopped) return `This server has stopped. ${why} Your files are kept.`;
    if (left === null) {
      return `This server stops when what runs on its GPU has ended. ${why}`;
    }
    if (left === 0) return `This server stops now. ${why}`;
    const end = `This server stops in ${duration(rounded(left))} (${clock(endsAt)}).`;
    return [end, why, offer(notice)].join(' ').trim();
  };

  const offer = notice => {
    if (notice.next_extension === null) return '';
    const n = notice.n_extensions_left;
    return `You can extend it ${n === 1 ? 'once' : `${n} times`}.`;
  };

  const label = notice => {
    const cost = notice.microtokens ? tokens(notice.microtokens) : 'free';
    return `Extend ${duration(notice.extend_by_s)} (${cost})`;
  };

  const N_STAGES = SHOWN_AGAIN_S.length;
  const stage = left =>
    left === null ? 0 : SHOWN_AGAIN_S.filter(mark => left <= mark).length;

  // ------------------------------------------------------------------- the warning

  class Warnings {
    constructor(app, lab) {
      this.lab = lab; // Notification, ServerConnection, URLExt
      this.settings = app.serviceManager.serverSettings;
      this.notice = null;
      this.endsAt = null; // of performance.now(): nobody's clock has to be right
      this.endsClock = null; // of this machine's clock, which goes on while it sleeps
      this.isStopped = false; // the hub says that the server is gone
      this.everyS = RETRY_S;
      this.hiddenEveryS = null;
      this.id = null; // of the notification
      this.shown = ''; // what it says
      this.stage = 0;
      this.isBusy = false; // an extension is being asked for
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

    /** "stops in 4:59" or "has stopped"; null: nothing is counted down. */
    brief() {
      const left = this.left();
      if (this.notice === null || left === null) return null;
      return this.isStopped ? 'has stopped' : `stops in ${short(left)}`;
    }

    /** Count down to this; an end that hardly moved stays: each change is read aloud. */
    aim(left) {
      const [before, clockBefore] = [this.endsAt, this.endsClock];
      this.endsAt = left === null ? null : performance.now() + left * 1000;
      this.endsClock = left === null ? null : Date.now() + left * 1000;
      if (before === null || left === null) return;
      const moved = [this.endsAt - before, this.endsClock - clockBefore];
      if (moved.some(ms => Math.abs(ms) > JITTER_MS)) return;
      [this.endsAt, this.endsClock] = [before, clockBefore];
    }

    /** After a sleep, in which performance.now() may stand still: go by the clock, ask. */
    wake() {
      if (this.endsAt === null) return;
      const slept = this.endsAt - performance.now() - (this.endsClock - Date.now());
      if (Math.abs(slept) <= JITTER_MS) return;
      this.endsAt -= slept;
      if (!document.hidden) this.look();
    }

    // -- asking

    async ask(path, init) {
      const { ServerConnection, URLExt } = this.lab;
      const url = URLExt.join(this.settings.baseUrl, 'torchroom', path);
      // Else the hub answers with its pages, once the server is gone.
      const all = { headers: { Accept: 'application/json' }, ...init };
      const reply = await ServerConnection.makeRequest(url, all, this.settings);
      const body = reply.ok ? await reply.json() : await reply.json().catch(() => ({}));
      return { status: reply.status, body };
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
      if (found.status === 424) this.isStopped = true;
      if (found.status === 200) {
        this.isStopped = false;
        this.everyS = found.body.every_s;
        this.hiddenEveryS = found.body.hidden_every_s;
        if (!this.isBusy) this.take(found.body.notice);
      }
      this.plan();
    }

    plan() {
      clearTimeout(this.poll);
      let s = document.hidden ? this.hiddenEveryS : this.everyS;
      if (s === null) return;
      const left = this.left();
      const isEnding = left !== null && !document.hidden && !this.isStopped;
      if (isEnding) s = Math.min(s, Math.max(left, LAST_S));
      this.poll = setTimeout(() => this.look(), s * 1000);
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
      const isNew = before === null || before.lease !== notice.lease;
      if (isNew || before.reason !== notice.reason) this.stage = -1;
      this.aim(notice.seconds_left);
      this.stage = Math.min(this.stage, stage(this.left())); // it may end later now
      this.tick();
    }

    tick() {
      clearTimeout(this.ticking);
      if (this.notice === null) return;
      this.wake();
      if (!this.isBusy) this.show();
      this.changed();
      this.title();
      this.ticking = setTimeout(() => this.tick(), 1000);
    }

    show() {
      const left = this.left();
      const now = this.isStopped ? N_STAGES + 1 : stage(left);
      const said = message(this.notice, left, this.endsClock, this.isStopped);
      // A closed one stays closed until the next stage; an open one changes in place.
      const isOpen = this.id !== null && document.getElementById(this.id) !== null;
      const isDue = now > this.stage;
      if (said === this.shown && !isDue) return;
      if (!isDue && !isOpen) return;
      this.stage = now;
      this.say(said, 'warning', this.actions(left));
    }

    actions(left) {
      if (this.notice.next_extension === null || left === 0 || this.isStopped) return [];
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
      if (this.id !== null) this.lab.Notification.dismiss(this.id);
      this.id = null;
      this.shown = '';
      this.stage = 0;
      this.changed();
      this.title();
    }

    title() {
      const plain = document.title.replace(/^⚠ [^–]*– /, '');
      const brief = document.hidden ? this.brief() : null;
      const title = brief === null ? plain : `⚠ ${brief} – ${plain}`;
      if (title !== document.title) document.title = title;
    }

    // -- more time

    async extend() {
      if (this.isBusy || this.notice === null) return;
      const asked = this.notice;
      this.isBusy = true;
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
      this.notice = body.notice;
      const left = this.notice.seconds_left;
      this.aim(left);
      this.stage = stage(left);
      const until = left === null ? '' : ` until ${clock(this.endsClock)}`;
      const parts = [`Extended${until}.`];
      if (body.microtokens_left !== null) {
        parts.push(`You have ${tokens(body.microtokens_left)} left.`);
      }
      this.conclude(parts.join(' '), 'success');
      this.tick();
      this.plan();
    }

    refuse(why) {
      this.conclude(`Not extended: ${why || 'this did not work. Try it again.'}`, 'error');
      this.stage = -1; // the warning and its button come again, beside it
      this.show();
      this.look(); // it may have been refused because something changed
    }

    /** Say what came of it; that goes by itself, and the next warning is another one. */
    conclude(said, type) {
      this.say(said, type, [], CONFIRMED_MS);
      this.id = null;
      this.shown = '';
    }
  }

  // ---------------------------------------------------------------- the status bar

  const addStatus = (statusBar, widgets, warnings) => {
    const node = document.createElement('div');
    node.className = 'jp-StatusBar-TextItem torchroom-Countdown';
    node.setAttribute('role', 'timer');
    node.setAttribute('aria-live', 'off'); // the notification is what is read aloud
    node.style.display = 'none';
    node.style.fontWeight = '600';
    const item = new widgets.Widget({ node });
    statusBar.registerStatusItem(PLUGIN, { item, align: 'left', rank: 1000 });
    warnings.changed = () => {
      const brief = warnings.brief();
      node.style.display = brief === null ? 'none' : '';
      node.textContent = brief === null ? '' : `This server ${brief}`;
      node.title = brief === null ? '' : warnings.notice.sentence;
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
