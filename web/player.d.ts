// The types of what the page takes from `pwl_lab/widgets/player.js`.
export function make<Name extends keyof HTMLElementTagNameMap>(
  name: Name, attributes?: object, parent?: Element | null,
): HTMLElementTagNameMap[Name];
export function make(name: string, attributes?: object, parent?: Element | null): HTMLElement;
export function draw(name: string, attributes: object, parent: Element, text?: string): SVGElement;
export function put(one: Element, text: string): void;
export function percent(share: number): string;
export function bytesIn(size: number): string;
export function secondsIn(value: number): string;
