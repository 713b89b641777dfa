// The types of `pwl_lab/widgets/canvas.js`.
declare const widget: {
  render(place: { model: { set(name: string, file: DataView<ArrayBuffer>): unknown; save_changes(): void }; el: HTMLElement }): void;
};
export default widget;
