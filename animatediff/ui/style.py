"""Look of the page: Gradio's own theme with its local fonts, and the layout of wide and narrow windows."""

from __future__ import annotations

from typing import Any

from animatediff.ui.library import gr


def theme() -> Any:
    """Gradio's default theme in one accent, with fonts that come with it or with the system."""
    return gr.themes.Default(
        primary_hue="indigo",
        secondary_hue="indigo",
        neutral_hue="slate",
        spacing_size="sm",
        radius_size="md",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    )


CSS = """
.gradio-container { width: 100% !important; max-width: 1560px !important; margin: 0 auto;
  padding: 0 24px 24px !important; }
.gradio-container > .main { width: 100%; padding: 6px 0 !important; max-width: none !important; }
.ad-title { display: flex; align-items: baseline; gap: 12px; padding: 4px 2px 0; }
.ad-title h1 { font-size: 1.25rem; font-weight: 650; margin: 0; }
.ad-title span { color: var(--body-text-color-subdued); font-size: .9rem; }

.ad-main { display: grid !important; gap: 14px 20px; align-items: start;
  grid-template-columns: minmax(0, 11fr) minmax(0, 9fr); grid-template-rows: auto 1fr;
  grid-template-areas: "basics result" "more result"; }
.ad-basics { grid-area: basics; min-width: 0 !important; }
.ad-more { grid-area: more; min-width: 0 !important; }
.ad-side { grid-area: result; min-width: 0 !important; position: sticky; top: 10px; }
@media (max-width: 900px) {
  .gradio-container { padding: 0 12px 20px !important; }
  .ad-main { grid-template-columns: minmax(0, 1fr); grid-template-rows: none;
    grid-template-areas: "basics" "result" "more"; }
  .ad-side { position: static; }
  .ad-title span { display: none; }
}
.ad-go button { min-height: 46px; font-size: 1.05rem; }

.ad-numbers, .ad-three, .ad-seed, .ad-moves > .form, .ad-models-row { display: grid !important; gap: 8px; }
.ad-moves { display: block !important; }
.ad-numbers { grid-template-columns: repeat(4, minmax(0, 1fr)); }
.ad-three { grid-template-columns: repeat(2, minmax(0, 1fr)) minmax(0, 2fr); }
.ad-seed { grid-template-columns: minmax(0, 2fr) 44px minmax(0, 1fr) minmax(0, 1fr); }
.ad-models-row { grid-template-columns: repeat(2, minmax(0, 1fr)) 44px; }
.ad-moves > .form { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1px; }
@media (max-width: 560px) {
  .ad-numbers, .ad-three { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .ad-three > :last-child, .ad-models-row > :first-child { grid-column: 1 / -1; }
  .ad-models-row { grid-template-columns: minmax(0, 1fr) 44px; }
  .ad-seed { grid-template-columns: minmax(0, 1fr) 44px minmax(0, 1fr); }
  .ad-seed > :last-child { grid-column: 1 / -1; }
  .ad-moves > .form { grid-template-columns: minmax(0, 1fr); }
  .ad-models td, .ad-models th { overflow-wrap: anywhere !important; }
}
.ad-numbers > *, .ad-three > *, .ad-seed > *, .ad-moves > .form > *, .ad-models-row > * { min-width: 0 !important; }
.ad-square { min-width: 0 !important; padding: 0 !important; font-size: 1.35rem; align-self: stretch; }
.ad-side .block, .ad-basics .ad-about { padding: 0 !important; }

.ad-numbers, .ad-three, .ad-seed { align-items: stretch; }
.ad-numbers .form, .ad-three .form, .ad-seed .form { flex-grow: 1; }
.gradio-container .wrap > .wrap-inner { min-height: 37px; }
.gradio-container main { padding-top: 8px !important; }

.ad-frame { display: flex; align-items: center; justify-content: center; overflow: hidden; min-height: 320px;
  border-radius: 10px; background: #101218; border: 1px solid var(--border-color-primary); }
.ad-frame .ad-hint { color: #c3c8d4; text-align: center; padding: 40px 20px; line-height: 1.6; }
.ad-frame .ad-hint b { color: #f1f3f8; }
.ad-frame img, .ad-frame video { display: block; width: 100%; max-height: 68vh; object-fit: contain; margin: 0; }
.ad-preview { filter: saturate(.95); }
.ad-bar { height: 6px; margin-top: 10px; border-radius: 3px; overflow: hidden;
  background: var(--border-color-primary); }
.ad-bar > div { height: 100%; background: var(--color-accent); transition: width .2s linear; }
.ad-words { display: flex; justify-content: space-between; gap: 12px; margin-top: 4px; font-size: .9rem;
  color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.ad-facts { display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 2px 0; font-variant-numeric: tabular-nums; }
.ad-file { margin: 0; color: var(--body-text-color-subdued); font-size: .85rem; overflow-wrap: anywhere; }
.ad-about p { color: var(--body-text-color-subdued); font-size: .85rem; margin: 0 2px; }
.ad-error { margin: 2px 0 0; padding: 7px 11px; border-radius: 8px; font-size: .92rem; overflow-wrap: anywhere;
  white-space: pre-line; color: #8f1d1d; background: #fdecec; border: 1px solid #f2b8b8; }
.dark .ad-error { color: #ffc9c9; background: #43191c; border-color: #84363b; }
.ad-note { margin: 2px 0 0; color: var(--body-text-color-subdued); }
.ad-notes summary { cursor: pointer; color: var(--body-text-color-subdued); }
.ad-notes ul { margin: 4px 0 0 18px; font-size: .9rem; overflow-wrap: anywhere; }
.ad-timeline img { width: 100%; border-radius: 8px; margin: 0; }
.ad-settings tr, .ad-models tr, .ad-settings tbody, .ad-models tbody { border: 0 !important; }
table.ad-settings, table.ad-models { width: 100%; border-collapse: collapse; font-size: .9rem; border: 0 !important; }
.ad-settings th, .ad-settings td, .ad-models th, .ad-models td { text-align: left; vertical-align: top;
  padding: 5px 12px 5px 0 !important; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important; overflow-wrap: break-word; }
.ad-settings td, .ad-models td:last-child { overflow-wrap: anywhere; }
.ad-settings th { width: 38%; font-weight: 500; color: var(--body-text-color-subdued); }
.ad-gallery { display: grid !important; gap: 14px 20px; align-items: start;
  grid-template-columns: minmax(0, 11fr) minmax(0, 9fr); }
.ad-gallery > * { min-width: 0 !important; }
@media (max-width: 900px) { .ad-gallery { grid-template-columns: minmax(0, 1fr); } }
#gallery .grid-wrap { min-height: 0 !important; max-height: none !important; height: auto !important; }
#gallery .grid-container { grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)) !important; }
.gradio-container .html-container { padding: 0 !important; }
.gradio-container main, .gradio-container .contain { width: 100%; }
footer { display: none !important; }
"""
