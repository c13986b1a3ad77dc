/** What the page uses of `preact.js`, for checks of types. Markup is made at run time, so its types are open. */
export const html: (strings: TemplateStringsArray, ...values: any[]) => any;
export function render(view: any, parent: Element): void;
export function useState<T>(first: T | (() => T)): [T, (next: T | ((last: T) => T)) => void];
export function useEffect(effect: () => void | (() => void), on?: readonly any[]): void;
export function useMemo<T>(make: () => T, on: readonly any[]): T;
export function useRef<T>(first: T): { current: T };
export function useCallback<T>(callback: T, on: readonly any[]): T;
