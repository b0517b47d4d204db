import { isDeepStrictEqual } from 'node:util';
import { platformMatches } from '../../src/oci/index.ts';
import type { PlannedBase, PlannedStage, PlannedStep } from '../plan.ts';
import type { StageItem } from '../steps.ts';

/** The plans of several platforms, with what they have in common in one piece. */
export interface SharedPlans {
  /** In the order of the plans. */
  readonly targets: readonly PlannedStage[];
  /** Each comes after what it needs. */
  readonly stages: readonly PlannedStage[];
}

/** An instruction of a stage, and of one that is carried out when it is built, how. */
interface Element {
  readonly item: StageItem;
  readonly step: PlannedStep | undefined;
}

/** A stage of one plan, what it is made from being shared already. */
interface Member {
  readonly planned: PlannedStage;
  readonly base: PlannedBase;
  readonly elements: readonly Element[];
}

/**
 * Joins plans of one Dockerfile: steps that are the same for several platforms, such as those of a compiler's stage that is
 * FROM the build platform, become one stage, on which what differs stands. So they run once.
 *
 * @param plans with keys, each with its target last.
 */
export function shareStages(plans: readonly (readonly PlannedStage[])[]): SharedPlans {
  const sharer = new Sharer();
  for (const index of inOrder(plans.flat()))
    sharer.add(plans.flatMap((plan) => plan.filter((stage) => stage.index === index)));
  return { targets: plans.map((plan) => sharer.targetOf(plan)), stages: sharer.stages };
}

/** The Dockerfile's stages, each after what it needs for any platform. */
function inOrder(stages: readonly PlannedStage[]): Set<number> {
  const begun = new Set<number>();
  const ordered = new Set<number>();
  const place = (index: number): void => {
    if (begun.has(index)) return;
    begun.add(index);
    for (const stage of stages)
      if (stage.index === index)
        for (const origin of [stage.base, ...stage.steps.map(({ source }) => source)])
          if (origin?.kind === 'stage') place(origin.stage.index);
    ordered.add(index);
  };
  for (const { index } of stages) place(index);
  return ordered;
}

class Sharer {
  readonly stages: PlannedStage[] = [];
  readonly #shared = new Map<PlannedStage, PlannedStage>();

  targetOf(plan: readonly PlannedStage[]): PlannedStage {
    const target = plan.at(-1);
    if (target === undefined) throw new Error('no stage is needed');
    return this.#sharedOf(target);
  }

  /** Adds what one stage of the Dockerfile is in each plan. */
  add(planned: readonly PlannedStage[]): void {
    const members = planned.map((stage) => this.#memberOf(stage));
    for (const group of groupBy(members, hasSameBase)) this.#join(group, group[0]?.base, 0);
  }

  #memberOf(planned: PlannedStage): Member {
    const steps = planned.steps.map((step) =>
      step.source === undefined ? step : { ...step, source: this.#originOf(step.source) },
    );
    let position = 0;
    const elements = planned.interpreted.items.map((item) => ({
      item,
      step: item.kind === 'step' ? steps[position++] : undefined,
    }));
    return { planned, base: this.#originOf(planned.base), elements };
  }

  #originOf(origin: PlannedBase): PlannedBase {
    return origin.kind === 'stage' ? { kind: 'stage', stage: this.#sharedOf(origin.stage) } : origin;
  }

  #sharedOf(planned: PlannedStage): PlannedStage {
    const shared = this.#shared.get(planned);
    if (shared === undefined) throw new Error(`stage ${planned.label} is not shared yet`);
    return shared;
  }

  /** Makes stages of members that have their base, and everything before `start`, in common. */
  #join(members: readonly Member[], base: PlannedBase = { kind: 'scratch' }, start: number): void {
    const [first] = members;
    if (first === undefined) return;
    const common = commonLength(members);
    if (members.every(({ elements }) => elements.length === common)) {
      const whole = this.#piece(members, base, start, common);
      for (const { planned } of members) this.#shared.set(planned, whole);
      return;
    }
    const lastStep = first.elements.slice(0, common).findLastIndex(({ step }) => step !== undefined);
    const cut = Math.max(start, lastStep + 1);
    const below: PlannedBase =
      cut === start ? base : { kind: 'stage', stage: this.#piece(members, base, start, cut) };
    const groups = groupBy(members, (one, other) =>
      isDeepEqualBy(untilStep(one, cut), untilStep(other, cut), isSameElement),
    );
    for (const group of groups) this.#join(group, below, cut);
  }

  /** A stage of the instructions from `start` to `end`, which the members have in common. */
  #piece(members: readonly Member[], base: PlannedBase, start: number, end: number): PlannedStage {
    const [first] = members as readonly [Member];
    const elements = first.elements.slice(start, end);
    const steps = elements.flatMap(({ step }) => step ?? []);
    const stage: PlannedStage = {
      ...first.planned,
      base,
      interpreted: { ...first.planned.interpreted, items: elements.map(({ item }) => item) },
      // What several platforms need is done for none of them.
      steps:
        members.length === 1 ? steps : steps.map((step) => ({ ...step, id: step.id.replace(/->\S+/, '') })),
    };
    this.stages.push(stage);
    return stage;
  }
}

/** Up to the next step and with it. */
function untilStep({ elements }: Member, start: number): readonly Element[] {
  const step = elements.findIndex((element, index) => index >= start && element.step !== undefined);
  return elements.slice(start, step < 0 ? undefined : step + 1);
}

function commonLength(members: readonly Member[]): number {
  const [first, ...others] = members;
  if (first === undefined) return 0;
  const differs = first.elements.findIndex((element, index) =>
    others.some(({ elements }) => !isSameElement(element, elements[index])),
  );
  return differs < 0 ? first.elements.length : differs;
}

function hasSameBase(one: Member, other: Member): boolean {
  if (one.base.kind === 'scratch' && other.base.kind === 'scratch')
    return platformMatches(one.planned.platform, other.planned.platform);
  return isSameOrigin(one.base, other.base);
}

function isSameOrigin(one: PlannedBase | undefined, other: PlannedBase | undefined): boolean {
  if (one?.kind === 'stage') return other?.kind === 'stage' && one.stage === other.stage;
  if (one?.kind === 'image') return other?.kind === 'image' && one.image === other.image;
  return one?.kind === other?.kind;
}

/** Keys tell everything but what is left out of them on request, and where a copy's source comes from in this build. */
function isSameElement(one: Element, other: Element | undefined): boolean {
  if (other === undefined || !isDeepStrictEqual(one.item, withIdOf(other.item, one.item))) return false;
  if (one.step === undefined || other.step === undefined) return one.step === other.step;
  return (
    one.step.key !== undefined &&
    one.step.key === other.step.key &&
    isSameOrigin(one.step.source, other.step.source)
  );
}

/** An item as another's progress calls it. */
function withIdOf(item: StageItem, { kind, ...named }: StageItem): StageItem {
  if (item.kind !== 'step' || kind !== 'step' || !('step' in named)) return item;
  return { ...item, step: { ...item.step, id: named.step.id } };
}

function isDeepEqualBy<Value>(
  one: readonly Value[],
  other: readonly Value[],
  isSame: (a: Value, b: Value) => boolean,
): boolean {
  return one.length === other.length && one.every((value, index) => isSame(value, other[index] as Value));
}

function groupBy<Value>(values: readonly Value[], isSame: (one: Value, other: Value) => boolean): Value[][] {
  const groups: Value[][] = [];
  for (const value of values) {
    const group = groups.find(([first]) => first !== undefined && isSame(first, value));
    if (group === undefined) groups.push([value]);
    else group.push(value);
  }
  return groups;
}
