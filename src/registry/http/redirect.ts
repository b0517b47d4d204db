import { KilnError } from '../../support/index.ts';
import { headerOf, type HttpRequest, type HttpResponse, type Send } from './message.ts';

const maximumRedirects = 5;

/**
 * Follows the redirects of a GET or HEAD.
 *
 * @param own sends with our credentials, to the host that the request names.
 * @param elsewhere sends to other hosts. The storage behind a registry is another party: it never gets the registry's credentials.
 * @throws KilnError `E_REGISTRY_REFUSED` for a redirect out of HTTPS, and for too many.
 */
export async function followRedirects(
  request: HttpRequest,
  own: Send,
  elsewhere: Send,
): Promise<HttpResponse> {
  let { url } = request;
  let response = await own(request);
  for (let redirects = 0; isRedirect(response.status); redirects++) {
    const location = headerOf(response, 'location');
    if (location === undefined || !URL.canParse(location, url.href)) return response;
    await response.body.dump();
    const next = new URL(location, url);
    if (redirects >= maximumRedirects) throw refused(request, 'redirects without end');
    if (next.protocol !== 'https:' && (next.protocol !== 'http:' || url.protocol === 'https:'))
      throw refused(request, `redirects from ${url.protocol}// to ${next.protocol}//${next.host}`);
    const send = next.origin === request.url.origin ? own : elsewhere;
    url = next;
    response = await send({ ...request, url });
  }
  return response;
}

function isRedirect(status: number): boolean {
  return [301, 302, 303, 307, 308].includes(status);
}

function refused(request: HttpRequest, why: string): KilnError {
  return new KilnError(`${request.method} ${request.url.host}${request.url.pathname}: the registry ${why}`, {
    code: 'E_REGISTRY_REFUSED',
    category: 'registry',
  });
}
