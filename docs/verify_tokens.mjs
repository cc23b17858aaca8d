// A verifier of the broker's tokens in another language, to be read: docs/reference/verifier-protocol.md says why.
// It needs Node 20 and nothing else. Run with a file of test vectors, it says whether it agrees with them:
//     node verify_tokens.mjs tests/vectors/verifier.json
// It leaves out what every HTTP client has: fetching keys and snapshots, reading the stream, acknowledging.

import { createPublicKey, verify } from "node:crypto";
import { readFileSync } from "node:fs";

class Refused extends Error {}

const must = (condition, why) => {
  if (!condition) throw new Refused(why);
};
const isText = (value, most) => typeof value === "string" && value.length > 0 && value.length <= most;
const isEpoch = (value, least = 0) => Number.isSafeInteger(value) && value >= least && value < 2 ** 53;
const isTime = (value) => typeof value === "number" && value >= 0;

// --- Signatures: form, type, algorithm, key, signature, times, issuer, in this order (RFC 8725)

function verified(jws, typ, { keys, issuer, now, leeway, grace }) {
  must(/^[\w-]+\.[\w-]+\.[\w-]+$/.test(jws), "malformed");
  const [head, body, signature] = jws.split(".");
  let header, claims;
  try {
    [header, claims] = [head, body].map((part) => JSON.parse(Buffer.from(part, "base64url").toString()));
  } catch {
    throw new Refused("malformed");
  }
  must(header.typ === typ && header.alg === "ES256", "of another type or algorithm");
  must(header.crit === undefined && header.b64 === undefined, "an extension");
  const key = keys.get(header.kid);
  must(key, "of an unknown key"); // a real verifier fetches the keys now, at most once a minute for tokens
  const good = verify("sha256", Buffer.from(`${head}.${body}`), { key, dsaEncoding: "ieee-p1363" }, Buffer.from(signature, "base64url"));
  must(good, "not signed by the key it names");
  must(isTime(claims.exp) && isTime(claims.iat), "without its times");
  if (claims.exp <= now - grace) throw new Refused("expired");
  must(claims.iat <= now + leeway && (claims.nbf ?? 0) <= now + leeway, "of a time to come");
  must(claims.iss === issuer, "of another issuer");
  return { claims, kid: header.kid };
}

// --- Statements: every member is known, or the whole statement is refused

const JWT_MEMBERS = ["iss", "iat", "exp", "sub", "aud", "nbf", "jti"];
const FIELDS = ["token", "lease", "task", "key", "agent", "secret", "backend", "role", "scope", "audience", "tier", "issuer"];

const members = (object, names) =>
  must(Object.keys(object).every((name) => names.includes(name)) && names.every((name) => JWT_MEMBERS.includes(name) || name in object), "members");

function readRule({ id, n, selector, ends }) {
  must(isText(id, 128) && (n === null || isEpoch(n, 1)) && (ends === null || Number.isSafeInteger(ends)), "a rule");
  must(selector !== null && typeof selector === "object" && !Array.isArray(selector), "a selector");
  const { everything = false, ...fields } = selector;
  must(typeof everything === "boolean" && everything !== Object.keys(fields).length > 0, "a selector of nothing definite");
  must(Object.entries(fields).every(([name, value]) => FIELDS.includes(name) && isText(value, 512)), "an unknown selector");
  return { id, n, ends, facts: Object.entries(fields).map(([name, value]) => `${name}=${value}`) };
}

const READ = {
  snapshot(claims) {
    members(claims, [...JWT_MEMBERS, "epoch", "mark", "rules"]);
    must(isEpoch(claims.epoch) && isText(claims.mark, 64) && Array.isArray(claims.rules), "a snapshot");
    const rules = new Map();
    const numbers = new Set();
    for (const item of claims.rules) {
      members(item, ["id", "n", "selector", "ends"]);
      const rule = readRule(item);
      must(!rules.has(rule.id) && !(rule.n !== null && numbers.has(rule.n)) && (rule.n ?? 0) <= claims.epoch, "rules");
      numbers.add(rule.n);
      rules.set(rule.id, rule);
    }
    return { ...claims, rules };
  },
  rule(claims) {
    members(claims, [...JWT_MEMBERS, "id", "n", "previous", "selector", "ends", "mark"]);
    must(isEpoch(claims.previous) && isText(claims.mark, 64), "a rule");
    const rule = readRule(claims);
    must(rule.n === null ? rule.ends === null : claims.previous < rule.n, "previous");
    return { ...claims, rule };
  },
  heartbeat(claims) {
    members(claims, [...JWT_MEMBERS, "epoch", "mark", "pending"]);
    must(isEpoch(claims.epoch) && isText(claims.mark, 64) && Array.isArray(claims.pending), "a heartbeat");
    const pending = new Set(claims.pending);
    must(pending.size === claims.pending.length && claims.pending.every((id) => isText(id, 128)), "pending");
    return { ...claims, pending };
  },
};
const TYP = { snapshot: "broker-rules+jwt", rule: "broker-rule+jwt", heartbeat: "broker-heartbeat+jwt" };

// --- The view

class View {
  rules = new Map();
  epoch = null;
  mark = ""; // to be repeated in acknowledgements
  floor = 0; // nothing that was stated before this is taken
  trueAt = -1; // when the last complete statement was made
  trueUntil = -Infinity; // until when tokens are accepted by it, by our clock

  constructor({ maxStaleness, leeway }) {
    Object.assign(this, { maxStaleness, leeway });
  }

  pending = () => new Set([...this.rules.values()].filter((rule) => rule.n === null).map((rule) => rule.id));
  isFresh = (now) => now <= this.trueUntil;
  isBefore = (epoch, at) => epoch < this.epoch || (epoch === this.epoch && at < this.floor);

  wasTrue(at, now) {
    // A real verifier takes `now` from before its question, and lets the age go on by a clock that cannot be set back.
    this.floor = this.trueAt = at;
    this.trueUntil = now + this.maxStaleness - Math.max(0, now - at - this.leeway);
  }

  snapshot({ epoch, iat, mark, rules }, now) {
    must(this.epoch === null || !this.isBefore(epoch, iat), "it goes back");
    const known = epoch === this.epoch && iat === this.trueAt;
    if (!known) this.wasTrue(iat, now);
    Object.assign(this, { epoch, mark, rules });
    return known ? "known" : "taken";
  }

  rule({ rule, previous, iat, mark }) {
    if (this.epoch === null || previous > this.epoch) return "gap";
    if (rule.n === null) {
      if (this.rules.has(rule.id)) return "known";
    } else {
      if (rule.n <= this.epoch) return "known";
      if (previous !== this.epoch) return "gap";
      Object.assign(this, { epoch: rule.n, mark });
    }
    this.floor = Math.max(this.floor, iat);
    this.trueAt = -1;
    this.rules.set(rule.id, rule);
    return "taken";
  }

  heartbeat({ epoch, iat, pending }, now) {
    if (this.epoch === null) return "gap";
    if (this.isBefore(epoch, iat)) return "known";
    const own = this.pending();
    if (epoch !== this.epoch || own.size !== pending.size || [...pending].some((id) => !own.has(id))) return "gap";
    if (iat === this.trueAt) return "known";
    this.wasTrue(iat, now);
    return "taken";
  }

  kills = (facts, epoch) =>
    [...this.rules.values()].some((rule) => (rule.n === null || rule.n > epoch) && rule.facts.every((fact) => facts.has(fact)));
}

// --- Tokens

function facts(claims, kid) {
  const own = claims.broker;
  const actors = [...(own.via ?? [])];
  for (let act = claims.act; act; act = act.act) actors.push(act.sub);
  const all = {
    token: [claims.jti, ...(own.parents ?? [])],
    task: [own.task, ...(own.path ?? [])],
    agent: [claims.sub, claims.client_id, ...actors],
    scope: claims.scope.split(" "),
    key: claims.cnf ? [kid, claims.cnf.jkt] : [kid],
    role: [own.role],
    audience: [claims.aud],
    tier: [own.tier],
    issuer: [own.issuer],
  };
  for (const [name, values] of Object.entries(own.inherited ?? {})) all[name].push(...values);
  return new Set(Object.entries(all).flatMap(([name, values]) => values.map((value) => `${name}=${value}`)));
}

function judge(token, view, settings, audience, now) {
  let claims, kid;
  try {
    ({ claims, kid } = verified(token, "at+jwt", { ...settings, now, grace: 0 }));
  } catch (error) {
    return error.message === "expired" ? "token_expired" : "token_invalid";
  }
  if (claims.aud !== audience) return "token_audience";
  if (view.kills(facts(claims, kid), claims.broker.epoch)) return "token_revoked";
  return view.isFresh(now) ? "good" : "view_stale";
}

// --- The vectors

const vectors = JSON.parse(readFileSync(process.argv[2], "utf8"));
const keys = new Map(vectors.jwks.keys.map((jwk) => [jwk.kid, createPublicKey({ key: jwk, format: "jwk" })]));
const settings = { keys, issuer: vectors.issuer, leeway: vectors.leeway };
let steps = 0;
let wrong = 0;

function take(view, { event, data }, now) {
  try {
    must(event in READ, "an unknown event");
    return view[event](READ[event](verified(data, TYP[event], { ...settings, now, grace: vectors.leeway }).claims), now);
  } catch (error) {
    if (error instanceof Refused) return "refused";
    throw error;
  }
}

for (const { name, steps: each } of vectors.sequences) {
  const view = new View({ maxStaleness: vectors.max_staleness, leeway: vectors.leeway });
  for (const step of each) {
    const said = "token" in step ? judge(step.token, view, settings, vectors.audience, step.at) : take(view, step, step.at);
    const known = Object.fromEntries([...view.rules.values()].map((rule) => [rule.id, rule.n]).sort());
    const state = [said, view.epoch, view.isFresh(step.at), JSON.stringify(known)];
    const expected = [step.expect, step.epoch, step.fresh, JSON.stringify(Object.fromEntries(Object.entries(step.rules ?? {}).sort()))];
    steps += 1;
    if ("token" in step ? said !== step.expect : state.join() !== expected.join()) {
      wrong += 1;
      console.log(`${name}, step ${each.indexOf(step)}: ${state.join(" ")} instead of ${expected.join(" ")}`);
    }
  }
}
console.log(`${steps} steps, ${wrong} wrong`);
process.exit(wrong ? 1 : 0);
