import { GoogleAuth } from 'google-auth-library';

// Google's library takes long to load: this module is imported when a registry of Google's wants credentials, and not before.

/**
 * An access token by Application Default Credentials.
 *
 * @returns with the time at which it expires, in milliseconds since 1970, when that is known.
 */
export async function accessToken(
  project: string | undefined,
): Promise<{ token: string; expires: number | null | undefined }> {
  const auth = new GoogleAuth({
    scopes: ['https://www.googleapis.com/auth/cloud-platform'],
    // Not used; without one the library asks for it, with requests that may not be allowed.
    projectId: project ?? 'none',
  });
  const client = await auth.getClient();
  const { token } = await client.getAccessToken();
  if (token == null) throw new Error('there is no access token');
  return { token, expires: client.credentials.expiry_date };
}
