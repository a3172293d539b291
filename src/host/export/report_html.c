/* report_html.c - HTML and SVG by hand: a report must open anywhere, years from now. */
#include "export/report_html.h"

#include <math.h>
#include <string.h>

enum {
    WIDTH = 640,
    HEIGHT = 240,
    LEFT = 56,
    RIGHT = 12,
    TOP = 12,
    BOTTOM = 34,
    POINTS = 400,
    TICKS = 5
};

static const char *const colours[] = { "#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed" };
enum { COLOURS = sizeof(colours) / sizeof(colours[0]) };

static const char style[] =
    ":root{color-scheme:light dark;--f:#1f2937;--m:#6b7280;--b:#fff;--l:#e5e7eb;--s:#f3f4f6}"
    "@media(prefers-color-scheme:dark){:root{--f:#e5e7eb;--m:#9ca3af;--b:#111827;--l:#374151;--s:#"
    "1f2937}}"
    "body{font:15px/1.5 system-ui,sans-serif;color:var(--f);background:var(--b);max-width:60rem;"
    "margin:2rem auto;padding:0 1rem}h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem}"
    "table{border-collapse:collapse;width:100%}td,th{padding:.3rem .6rem;border-bottom:1px solid "
    "var(--l);text-align:right;font-variant-numeric:tabular-nums}td:first-child,th:first-child{"
    "text-align:left}pre{background:var(--s);padding:.8rem;overflow:auto;font-size:12px}"
    "figure{margin:1rem 0}figcaption{font-weight:600}svg{width:100%;height:auto;max-width:640px}"
    "svg text{fill:var(--m);font:11px system-ui,sans-serif}.g{stroke:var(--l)}"
    ".x{background:var(--s);border-radius:.5rem;padding:.6rem .9rem;margin:.8rem 0}"
    ".t{display:inline-block;margin:.15rem .25rem .15rem 0;padding:0 .45rem;border-radius:.4rem;"
    "border:1px solid var(--m);white-space:pre}.e{border-style:dashed;font-style:italic;"
    "border-color:#d97706}.t small{color:var(--m)}.k{color:var(--m);font-size:.85rem}";

void csp_html_text(FILE *out, const char *text)
{
    const unsigned char *p = (const unsigned char *)text;

    while (*p != '\0') {
        const int more = *p < 0x80 ? 0 : *p >= 0xF0 && *p < 0xF8 ? 3 : *p >= 0xE0 ? 2 : 1;
        int good = *p < 0x80 || (*p >= 0xC2 && *p < 0xF5);

        for (int i = 1; good && i <= more; i++) {
            good = (p[i] & 0xC0) == 0x80;
        }
        if (!good) {
            fputs("\xEF\xBF\xBD", out);
            p++;
        } else if (*p == '<') {
            fputs("&lt;", out), p++;
        } else if (*p == '>') {
            fputs("&gt;", out), p++;
        } else if (*p == '&') {
            fputs("&amp;", out), p++;
        } else if (*p == '"') {
            fputs("&quot;", out), p++;
        } else {
            fwrite(p, 1, (size_t)more + 1, out);
            p += more + 1;
        }
    }
}

void csp_html_begin(FILE *out, const char *title)
{
    fputs("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta "
          "name=\"viewport\" "
          "content=\"width=device-width,initial-scale=1\">\n<title>",
          out);
    csp_html_text(out, title);
    fprintf(out, "</title>\n<style>%s</style></head><body>\n<h1>", style);
    csp_html_text(out, title);
    fputs("</h1>\n", out);
}

void csp_html_end(FILE *out)
{
    fputs("</body></html>\n", out);
}

static void element(FILE *out, const char *tag, const char *text)
{
    fprintf(out, "<%s>", tag);
    csp_html_text(out, text);
    fprintf(out, "</%s>\n", tag);
}

void csp_html_heading(FILE *out, const char *text)
{
    element(out, "h2", text);
}

void csp_html_paragraph(FILE *out, const char *text)
{
    element(out, "p", text);
}

void csp_html_preformatted(FILE *out, const char *text)
{
    element(out, "pre", text);
}

void csp_html_table(FILE *out, const char *const *cells, int64_t rows, int64_t columns)
{
    fputs("<table>\n", out);
    for (int64_t i = 0; i < rows; i++) {
        fputs("<tr>", out);
        for (int64_t j = 0; j < columns; j++) {
            fputs(i == 0 ? "<th>" : "<td>", out);
            csp_html_text(out, cells[i * columns + j]);
            fputs(i == 0 ? "</th>" : "</td>", out);
        }
        fputs("</tr>\n", out);
    }
    fputs("</table>\n", out);
}

/* The box of a chart in data units. */
typedef struct frame {
    double x0, x1, y0, y1;
    bool log_y;
} frame;

static double scaled(const frame *f, double y)
{
    return f->log_y ? log10(y) : y;
}

static double at_x(const frame *f, double x)
{
    return LEFT + (x - f->x0) / (f->x1 - f->x0) * (WIDTH - LEFT - RIGHT);
}

static double at_y(const frame *f, double y)
{
    return HEIGHT - BOTTOM - (scaled(f, y) - f->y0) / (f->y1 - f->y0) * (HEIGHT - TOP - BOTTOM);
}

static frame fit(const csp_curve *curves, int64_t count, bool log_y)
{
    frame f = { INFINITY, -INFINITY, INFINITY, -INFINITY, log_y };

    for (int64_t c = 0; c < count; c++) {
        for (int64_t i = 0; i < curves[c].count; i++) {
            if (isfinite(curves[c].y[i]) && curves[c].y[i] <= 0.0) {
                f.log_y = false;
            }
        }
    }
    for (int64_t c = 0; c < count; c++) {
        for (int64_t i = 0; i < curves[c].count; i++) {
            if (isfinite(curves[c].y[i])) {
                f.x0 = fmin(f.x0, curves[c].x[i]);
                f.x1 = fmax(f.x1, curves[c].x[i]);
                f.y0 = fmin(f.y0, scaled(&f, curves[c].y[i]));
                f.y1 = fmax(f.y1, scaled(&f, curves[c].y[i]));
            }
        }
    }
    if (!(f.x1 > f.x0)) {
        f.x1 = f.x0 + 1.0;
    }
    if (!(f.y1 > f.y0)) {
        f.y1 = f.y0 + 1.0;
    }
    return f;
}

static void draw_axes(FILE *out, const frame *f, const char *x_name)
{
    for (int i = 0; i < TICKS; i++) {
        const double share = (double)i / (TICKS - 1);
        const double y = f->y0 + share * (f->y1 - f->y0), x = f->x0 + share * (f->x1 - f->x0);
        const double place = HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM);

        fprintf(out, "<line class=\"g\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>", LEFT,
                WIDTH - RIGHT, place, place);
        fprintf(out, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.3g</text>", LEFT - 6,
                place + 4, f->log_y ? pow(10.0, y) : y);
        fprintf(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.0f</text>", at_x(f, x),
                HEIGHT - BOTTOM + 16, x);
    }
    fprintf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">", WIDTH - RIGHT, HEIGHT - 3);
    csp_html_text(out, x_name);
    fputs("</text>", out);
}

/* Averages neighbours so that a long run stays a small page. */
static void draw_curve(FILE *out, const frame *f, const csp_curve *c, const char *colour)
{
    const int64_t step = c->count / POINTS + 1;

    fprintf(out, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.6\" points=\"", colour);
    for (int64_t i = 0; i < c->count; i += step) {
        double x = 0.0, y = 0.0;
        int64_t n = 0;

        for (int64_t j = i; j < i + step && j < c->count; j++) {
            if (isfinite(c->y[j])) {
                x += c->x[j];
                y += c->y[j];
                n++;
            }
        }
        if (n > 0) {
            fprintf(out, "%.1f,%.1f ", at_x(f, x / (double)n), at_y(f, y / (double)n));
        }
    }
    fputs("\"/>", out);
}

void csp_html_chart(FILE *out, const char *title, const char *x_name, const csp_curve *curves,
                    int64_t count, bool log_y)
{
    const frame f = fit(curves, count, log_y);

    fputs("<figure><figcaption>", out);
    csp_html_text(out, title);
    fprintf(out, "</figcaption><svg viewBox=\"0 0 %d %d\" role=\"img\">", WIDTH, HEIGHT);
    draw_axes(out, &f, x_name);
    for (int64_t c = 0; c < count; c++) {
        draw_curve(out, &f, &curves[c], colours[c % COLOURS]);
    }
    fputs("</svg><div class=\"k\">", out);
    for (int64_t c = 0; c < count; c++) {
        fprintf(out, "<span style=\"color:%s\">&#9632;</span> ", colours[c % COLOURS]);
        csp_html_text(out, curves[c].name);
        fputs("&nbsp;&nbsp; ", out);
    }
    fputs("</div></figure>\n", out);
}

void csp_html_explained(FILE *out, const char *kind, const char *text,
                        const csp_explained_term *terms, int64_t count, int64_t all_terms)
{
    fputs("<div class=\"x\"><span class=\"k\">", out);
    csp_html_text(out, kind);
    fputs("</span> ", out);
    csp_html_text(out, text);
    fputs("<br>", out);
    for (int64_t i = 0; i < count; i++) {
        fprintf(out, "<span class=\"t%s\" title=\"%s\">", terms[i].in_text ? "" : " e",
                terms[i].in_text ? "in the text" : "expansion: not in the text");
        csp_html_text(out, terms[i].text);
        fprintf(out, " <small>%.2f</small></span>", terms[i].weight);
    }
    fprintf(out, "<div class=\"k\">%lld of %lld terms; dashed: expansion</div></div>\n",
            (long long)count, (long long)all_terms);
}
