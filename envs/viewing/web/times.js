// An episode at some moment: what its step functions are, who runs, who waits.

/** Index of the last entry that is not later than `time`, or -1. */
export function lastBy(times, time) {
  let low = 0, high = times.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] <= time) low = middle + 1; else high = middle;
  }
  return low - 1;
}

export class Episode {
  constructor(data) {
    Object.assign(this, data);
    this.runsOf = this.jobs.id.map(() => []);
    this.runs.job.forEach((job, r) => this.runsOf[job].push(r));
    this.eventTimes = this.events.map(([time]) => time);
    this.decisionTimes = this.decisions.map(({ time }) => time);
    this.moments = this.decisions.length ? this.decisionTimes : this.series.time;
    this.floors = [0]; // where each node begins, capacity units from the first
    for (const units of this.capacity) this.floors.push(this.floors.at(-1) + units);
  }

  get units() { return this.floors.at(-1); }

  at(name, time) {
    const k = lastBy(this.series.time, time);
    return k < 0 ? null : this.series[name][k];
  }

  /** The run that a job is in, or -1. */
  runAt(job, time) {
    return this.runsOf[job].find((r) => this.runs.start[r] <= time && (time < this.runs.end[r] || this.runs.how[r] === "unfinished")) ?? -1;
  }

  ended(job, time) { return this.jobs.end[job] >= 0 && this.jobs.end[job] <= time; }

  /** Jobs that wait, in the order of submission. */
  waiting(time) {
    const { submit, service } = this.jobs;
    const found = [];
    for (let job = 0; job < submit.length; job += 1) {
      if (submit[job] <= time && !service[job] && !this.ended(job, time) && this.runAt(job, time) < 0) found.push(job);
    }
    return found.sort((a, b) => submit[a] - submit[b]);
  }

  done(time) {
    return this.jobs.end.reduce((count, end) => count + (end >= 0 && end <= time), 0);
  }

  /** Bounded slowdown of a job, as far as it has come. */
  slowdown(job, time) {
    const end = this.ended(job, time) ? this.jobs.end[job] : time;
    return Math.max((end - this.jobs.submit[job]) / Math.max(this.jobs.work[job], this.bound), 1);
  }

  /** How long a job has waited. */
  waited(job, time) {
    let held = 0;
    for (const r of this.runsOf[job]) held += Math.max(Math.min(this.runs.end[r], time) - this.runs.start[r], 0);
    return Math.max(time - this.jobs.submit[job] - held, 0);
  }

  /** Nodes that a run is on. */
  nodesOf(run) {
    this.placed ??= this.bars.run.reduce((found, r, b) => (found.get(r)?.add(this.bars.node[b]) ?? found.set(r, new Set([this.bars.node[b]])), found), new Map());
    return [...(this.placed.get(run) ?? [])].map((n) => this.nodes[n]);
  }
}

/** What is shown of time: all of it, or a part around now. */
export class View {
  constructor(episode, time, share, left, width) {
    const span = Math.max(episode.end * share, 1);
    this.begin = share === 1 ? 0 : Math.min(Math.max(time - 0.8 * span, 0), Math.max(episode.end - span, 0));
    this.end = this.begin + span;
    this.left = left;
    this.width = width;
  }

  x(time) { return this.left + ((time - this.begin) / (this.end - this.begin)) * (this.width - this.left); }
  time(x) { return this.begin + ((x - this.left) / (this.width - this.left)) * (this.end - this.begin); }
}

const STEPS = [1, 5, 10, 30, 60, 300, 600, 1800, 3600, 10800, 21600, 43200, 86400, 172800, 604800, 2592000].map((s) => s * 1000);

/** Round times of a view, at least so many pixels apart. */
export function ticks(view, apart = 90) {
  const step = STEPS.find((s) => view.x(view.begin + s) - view.left >= apart) ?? STEPS.at(-1);
  const found = [];
  for (let time = Math.ceil(view.begin / step) * step; time <= view.end; time += step) found.push(time);
  return found;
}

export const LEFT = 96; // pixels for names
